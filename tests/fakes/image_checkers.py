"""Image checkers of an operator, by import path."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from PIL import Image

from deployments.safety.checkers import ImageFinding


class RedIsUnsafe:
    prompts: ClassVar[list[str]] = []

    def check(self, image: Image.Image, prompt: str) -> ImageFinding:
        self.prompts.append(prompt)
        red, _, blue = np.asarray(image.convert("RGB")).reshape(-1, 3).mean(0)
        return ImageFinding(bool(red > blue + 100), "red", round(float(red) / 255, 2))


class AllIsUnsafe:
    def check(self, image: Image.Image, prompt: str) -> ImageFinding:
        return ImageFinding(unsafe=True, label="any", score=1.0)


class Broken:
    def check(self, image: Image.Image, prompt: str) -> ImageFinding:
        raise RuntimeError("out of order")


def rule(action: str, checker: type = RedIsUnsafe, on_error: str = "block") -> dict[str, Any]:
    """Rule of a lease."""
    path = f"{checker.__module__}:{checker.__name__}"
    return {
        "name": "mine",
        "action": action,
        "on_error": on_error,
        "checker": {"class_path": path, "timeout_s": 5.0},
    }
