"""Masks of objects in images, by SAM 2 in transformers."""

from __future__ import annotations

import colorsys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import darkroom
from darkroom_apps.shared import images

if TYPE_CHECKING:
    import numpy as np
    import torch
    from PIL.Image import Image as PilImage

POINTS_AT_ONCE = 32  # each needs about 20 MB in the decoder
STABILITY_OFFSET = 1.0  # by which a logit may change
SAME_BOX = 0.7  # intersection over union of the boxes of two masks that are of one object


@dataclass
class Prompts:
    """What shows one object, in pixels of the image."""

    points: list[tuple[float, float]] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)  # of the points: 1 on it, 0 beside it
    box: tuple[float, float, float, float] | None = None  # left, top, right, bottom


@dataclass(frozen=True)
class FoundMasks:
    """Masks of an automatic segmentation, in the resolution of the model."""

    logits: torch.Tensor  # float16 [N, h, w]
    size: tuple[int, int]  # width and height of the image

    def largest(self, most: int, least_pixels: int) -> list[np.ndarray[Any, Any]]:
        """At most ``most`` masks [H, W] with ``least_pixels``, the largest first."""
        areas = (self.logits > 0).flatten(1).sum(1)
        order = areas.argsort(descending=True)[:most]
        masks = [logits_to_mask(self.logits[index].float(), self.size) for index in order.tolist()]
        return [mask for mask in masks if mask.sum() >= max(least_pixels, 1)]


class SegmentModel:
    """SAM 2 with one set of weights."""

    def __init__(self, weights: str) -> None:
        import torch
        from transformers import Sam2Model

        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        loaded: Any = Sam2Model.from_pretrained(weights)
        self.model = loaded.to(self.device).eval()
        self.side = int(loaded.config.prompt_encoder_config.image_size)

    def embeddings(self, image: PilImage) -> Any:
        """What the model has seen of an image, for any number of prompts."""
        import torch

        # transformers' own processor needs torchvision.
        pixels = torch.from_numpy(images.normalise(image, (self.side, self.side)))
        with torch.inference_mode():
            return self.model.get_image_embeddings(pixels.to(self.device))

    def scale_points(self, image: PilImage, values: Sequence[float]) -> torch.Tensor:
        """Horizontal and vertical places by turns, as the model counts them: [len / 2, 2]."""
        import torch

        places = torch.tensor(values, dtype=torch.float32).view(-1, 2)
        return (places * self.side / torch.tensor(image.size)).to(self.device)

    def mask(self, image: PilImage, objects: Sequence[Prompts]) -> np.ndarray[Any, Any]:
        """Mask [H, W] of all objects together."""
        import numpy as np
        import torch

        whole = np.zeros((image.height, image.width), bool)
        embeddings = self.embeddings(image)
        for number, prompts in enumerate(objects):
            darkroom.progress(number, len(objects))
            inputs: dict[str, Any] = {}
            if prompts.points:
                flat = [value for point in prompts.points for value in point]
                inputs["input_points"] = self.scale_points(image, flat)[None, None]
                inputs["input_labels"] = torch.tensor(prompts.labels, device=self.device)[
                    None, None
                ]
            if prompts.box is not None:
                inputs["input_boxes"] = self.scale_points(image, prompts.box).view(1, 1, 4)
            # One point may mean a part or the whole, so of several masks the best is taken.
            several = prompts.box is None and len(prompts.points) == 1
            with torch.inference_mode():
                outputs = self.model(
                    image_embeddings=embeddings, multimask_output=several, **inputs
                )
            best = outputs.iou_scores[0, 0].argmax()
            whole |= logits_to_mask(outputs.pred_masks[0, 0, best].float().cpu(), image.size)
        return whole

    def all_masks(
        self, image: PilImage, per_side: int, least_quality: float, least_stability: float
    ) -> FoundMasks:
        """Masks of what is at each point of a grid, each object once."""
        import torch

        embeddings = self.embeddings(image)
        step = self.side / per_side
        line = torch.arange(per_side, device=self.device) * step + step / 2
        grid = torch.cartesian_prod(line, line).split(POINTS_AT_ONCE)
        logits = torch.empty(0, self.side // 4, self.side // 4, dtype=torch.float16)
        scores = torch.empty(0)
        for number, points in enumerate(grid):
            darkroom.progress(number, len(grid))
            with torch.inference_mode():
                outputs = self.model(
                    image_embeddings=embeddings,
                    input_points=points[None, :, None],
                    input_labels=torch.ones(1, len(points), 1, dtype=torch.int, device=self.device),
                )
            masks, quality = outputs.pred_masks[0].flatten(0, 1), outputs.iou_scores[0].flatten()
            good = (quality >= least_quality) & (stability(masks) >= least_stability)
            logits = torch.cat([logits, masks[good].half().cpu()])
            scores = torch.cat([scores, quality[good].float().cpu()])
            # After each batch, so that few masks are in memory.
            kept = list(unlike(boxes(logits), scores))
            logits, scores = logits[kept], scores[kept]
        return FoundMasks(logits, image.size)


def logits_to_mask(logits: torch.Tensor, size: tuple[int, int]) -> np.ndarray[Any, Any]:
    """Mask [H, W] of an image's size, from logits [h, w]."""
    from torch.nn.functional import interpolate

    width, height = size
    return (interpolate(logits[None, None], (height, width), mode="bilinear")[0, 0] > 0).numpy()


def stability(logits: torch.Tensor) -> torch.Tensor:
    """Part of each mask [N, h, w] that is left of it if it is stricter, of what it is if it is
    less strict."""
    inner = (logits > STABILITY_OFFSET).flatten(1).sum(1)
    outer = (logits > -STABILITY_OFFSET).flatten(1).sum(1)
    return inner / outer.clamp(min=1)


def boxes(logits: torch.Tensor) -> torch.Tensor:
    """Boxes [N, 4] around masks [N, h, w]: left, top, right, bottom. Empty for empty masks."""
    import torch

    sides: list[torch.Tensor] = []
    for seen in ((logits > 0).any(1), (logits > 0).any(2)):  # columns, rows
        count = seen.shape[1]
        first = seen.int().argmax(1)
        last = count - seen.flip(1).int().argmax(1)
        some = seen.any(1)
        sides += [first * some, last * some]
    left, right, top, bottom = sides
    return torch.stack([left, top, right, bottom], 1).float()


def unlike(corners: torch.Tensor, scores: torch.Tensor) -> Iterator[int]:
    """Places of boxes [N, 4], the best first, without those that a better one is like. Empty ones
    are left out."""
    import torch

    area = (corners[:, 2:] - corners[:, :2]).prod(1)
    waiting = scores.argsort(descending=True)
    waiting = waiting[area[waiting] > 0]
    while len(waiting):
        best, waiting = waiting[0], waiting[1:]
        yield int(best)
        low = torch.maximum(corners[best, :2], corners[waiting, :2])
        high = torch.minimum(corners[best, 2:], corners[waiting, 2:])
        shared = (high - low).clamp(min=0).prod(1)
        union = area[best] + area[waiting] - shared
        waiting = waiting[shared / union <= SAME_BOX]


def paint_masks(masks: Sequence[np.ndarray[Any, Any]], size: tuple[int, int]) -> PilImage:
    """Image with each mask in a colour of its own, later ones above earlier ones."""
    import numpy as np
    from PIL import Image

    width, height = size
    levels = np.zeros((height, width, 3), np.uint8)
    for number, mask in enumerate(masks):
        # Turned by the golden ratio, so that neighbours in the list differ.
        colour = colorsys.hsv_to_rgb(number * 0.618034 % 1, 0.75, 1.0)
        levels[mask] = [round(255 * channel) for channel in colour]
    return Image.fromarray(levels)
