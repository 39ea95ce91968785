"""Masks of what is in the foreground of an image, by BiRefNet (MIT) in ONNX's format."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import darkroom
from darkroom_apps.shared import images

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image as PilImage

    Array = np.ndarray[Any, Any]

GENERAL = "onnx-community/BiRefNet-ONNX"
FILE = "onnx/model.onnx"  # in a repository or folder
PROVIDERS = "CUDAExecutionProvider", "CPUExecutionProvider"
RADII = 90, 6  # pixels in which colours are looked for: first far, then near


class Network:
    """BiRefNet with one set of weights."""

    def __init__(self, weights: str) -> None:
        """``weights``: id of the hub, folder, or file."""
        import onnxruntime  # pyrefly: ignore[missing-import]

        usable = set(onnxruntime.get_available_providers())
        if PROVIDERS[0] in usable:
            onnxruntime.preload_dlls()  # those of NVIDIA's packages
        self.session: Any = onnxruntime.InferenceSession(
            str(file_of(weights)),
            providers=[provider for provider in PROVIDERS if provider in usable],
        )
        (self.input,) = self.session.get_inputs()

    def takes(self, side: int) -> bool:
        """Check that images of ``side`` × ``side`` are possible: most files fix the size."""
        return all(isinstance(size, str) or size == side for size in self.input.shape[2:])

    def mask(self, image: PilImage, side: int) -> Array:
        """Opacity of each pixel, [H, W] from 0 to 1."""
        import numpy as np
        from PIL import Image

        pixels = images.normalise(image, (side, side))
        if "float16" in self.input.type:
            pixels = pixels.astype(np.float16)
        logits = self.session.run(None, {self.input.name: pixels})[-1].astype(np.float32)
        small = Image.fromarray(1 / (1 + np.exp(-logits[0, 0].clip(-30, 30))))
        return np.asarray(small.resize(image.size, Image.Resampling.BILINEAR)).clip(0, 1)


def file_of(weights: str) -> Path:
    """The file with weights, which is downloaded if it must be."""
    path = Path(weights)
    if path.suffix == ".onnx":
        return path
    if path.is_dir():
        return path / FILE
    from huggingface_hub import hf_hub_download

    return Path(hf_hub_download(weights, FILE))


def cut_out(image: PilImage, mask: Array, *, refine: bool) -> PilImage:
    """``image`` with ``mask`` as its opacity. ``refine``: half transparent pixels lose the colour
    of the background."""
    import numpy as np
    from PIL import Image

    result = image
    if refine:
        opaque = [mean(mask, radius) for radius in RADII]
        colours = np.asarray(image)
        refined = np.empty_like(colours)
        for channel in range(3):  # one after the other, for their memory
            darkroom.progress(2 + channel, 5)
            plane = colours[..., channel].astype(np.float32) / 255
            refined[..., channel] = (foreground(plane, mask, opaque) * 255).round()
        result = Image.fromarray(refined)
    result.putalpha(images.grey(mask))
    return result


def foreground(colour: Array, mask: Array, opaque: Sequence[Array]) -> Array:
    """Colour [H, W] of the foreground alone. ``opaque``: means of the mask.

    Around each pixel, the mean of what is opaque and that of what is not explain its colour as
    their mixture; what they do not explain is the foreground's (Forte 2021, "Approximate fast
    foreground colour estimation").
    """
    front = back = colour
    for radius, share in zip(RADII, opaque, strict=True):
        near = mean(front * mask, radius) / (share + 1e-5)
        back = mean(back * (1 - mask), radius) / (1 - share + 1e-5)
        front = (near + mask * (colour - mask * near - (1 - mask) * back)).clip(0, 1)
    return front


def mean(values: Array, radius: int) -> Array:
    """Mean of the square around each value [H, W]."""
    from scipy.ndimage import uniform_filter

    return uniform_filter(values, 2 * radius + 1, mode="nearest")
