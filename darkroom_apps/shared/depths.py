"""Depth of images, by the models for it that transformers has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import darkroom
from darkroom_apps.shared import images

MODEL = "depth-anything/Depth-Anything-V2-Small-hf"
MAX_RATIO = 8  # of a longer side to a shorter one, which the model sees at a fixed length


class Depths:
    """A model that estimates depths."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        import torch
        from transformers import AutoImageProcessor, AutoModelForDepthEstimation

        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        model = settings.get("model", MODEL)
        self.processor: Any = AutoImageProcessor.from_pretrained(model)
        loaded: Any = AutoModelForDepthEstimation.from_pretrained(model)
        self.model = loaded.to(self.device).eval()
        # Most models say how near something is, those for metres how far.
        self.is_far = getattr(loaded.config, "depth_estimation_type", "relative") == "metric"

    def of(self, file: darkroom.Image) -> darkroom.Image:
        """Image in which what is nearest is white, and what is farthest black."""
        import torch

        image = file.open(most_pixels=images.MAX_PIXELS)
        if max(image.size) > MAX_RATIO * min(image.size):
            raise darkroom.InvalidField(
                "image_url",
                f"The image has {image.width}×{image.height} pixels; its longer side may have "
                f"{MAX_RATIO} times the length of the other",
            )
        inputs = self.processor(images=image, return_tensors="pt").to(self.device)
        darkroom.progress(0, 1)
        with torch.inference_mode():
            outputs = self.model(**inputs)
        size = [(image.height, image.width)]
        (prediction,) = self.processor.post_process_depth_estimation(outputs, target_sizes=size)
        depth = prediction["predicted_depth"].float().cpu()
        low, high = depth.min(), depth.max()
        levels = (depth - low) / (high - low).clamp(min=torch.finfo(torch.float32).tiny)
        return images.to_file(images.grey((1 - levels if self.is_far else levels).numpy()), "png")
