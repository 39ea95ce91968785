"""Previews: small images from a suspended generation, without a forward."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from typing import Any
from weakref import WeakKeyDictionary

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from deployments.engine.accelerator.interface import Accelerator
from deployments.engine.interception.proxy import GenerationGreenlet
from deployments.engine.interception.solver_step import SolverStep
from deployments.engine.preview.latents import DecoderInput, decoder_input
from deployments.engine.preview.projection import Projection, fit_projection
from deployments.engine.preview.rest_of_call import suspended_frames
from serve_app.domain.errors import SnapshotRefused, Unsupported
from serve_app.domain.media.marking import XMP

log = logging.getLogger(__name__)

SIDE = 256  # pixels of the longer side


@dataclass(frozen=True, slots=True, eq=False)
class PreviewImage:
    """Estimate of the image after ``step`` steps."""

    step: int
    pixels: Tensor  # [height, width, 3], uint8, on the CPU; complete when ``ready`` returns
    ready: Callable[[], object]

    def jpeg(self, *, marked: bool = False) -> bytes:
        """Encode as JPEG, ``SIDE`` pixels on the longer side.

        It takes about a millisecond and waits for the device, so never call it on the engine's
        thread. ``marked``: it says that it is AI-generated.
        """
        self.ready()
        image = Image.fromarray(self.pixels.numpy())
        scale = SIDE / max(image.size)
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        buffer = BytesIO()
        mark = {"xmp": XMP.encode()} if marked else {}
        image.resize(size, Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=80, **mark)
        return buffer.getvalue()


class PreviewRenderer:
    """Previews for the engine's thread.

    The colour projection of an autoencoder is fitted once, at the first preview with it.
    """

    def __init__(self, accelerator: Accelerator) -> None:
        self._accelerator = accelerator
        self._projections: WeakKeyDictionary[Any, Projection | Unsupported] = WeakKeyDictionary()

    def of(self, suspended: GenerationGreenlet, step: int, last: SolverStep | None) -> PreviewImage:
        """Make a preview after ``step`` steps. Raises ``Unsupported``, with the reason, if the
        pipeline allows none.

        ``last``: the last step; None if it is not known.
        """
        try:
            return self._of(decoder_input(suspended.look_up(suspended_frames), last), step)
        except SnapshotRefused as error:  # ``look_up`` turns every error into it
            raise Unsupported(error.message) from None
        except Unsupported:
            raise
        except Exception as error:
            # A preview is optional and must not end the engine.
            log.debug("A preview could not be made.", exc_info=True)
            raise Unsupported(
                f"No preview could be made: {type(error).__name__}: {error}"
            ) from None

    def _of(self, shown: DecoderInput, step: int) -> PreviewImage:
        if shown.autoencoder is None:
            projection = Projection.of_pixels(shown.latents.device)
        else:
            projection = self._projection(shown.autoencoder)
        colours = projection(_small(shown.of_one_image()))
        levels = colours.mul(255).round().to(torch.uint8)
        copy = self._accelerator.to_host(levels)  # the thread that encodes waits for the device
        return PreviewImage(step, copy.tensor, copy.ready)

    def _projection(self, vae: Any) -> Projection:
        known = self._projections.get(vae)
        if known is None:
            known = self._projections[vae] = _fit_projection(vae)
        if isinstance(known, Unsupported):
            raise Unsupported(known.message)
        return known


def _fit_projection(vae: Any) -> Projection | Unsupported:
    try:
        return fit_projection(vae)
    except Unsupported as error:
        return Unsupported(error.message)
    except Exception as error:
        kind = type(vae).__name__
        log.warning("No previews with %s: fitting its colours failed (%s).", kind, error)
        return Unsupported(f"Fitting the colours of its autoencoder failed: {error}")


def _small(latents: Tensor) -> Tensor:
    """Shrink [channels, height, width] so that no side is longer than ``SIDE``."""
    scale = SIDE / max(latents.shape[1:])
    if scale >= 1:
        return latents
    height, width = (max(1, round(side * scale)) for side in latents.shape[1:])
    return functional.adaptive_avg_pool2d(latents, (height, width))
