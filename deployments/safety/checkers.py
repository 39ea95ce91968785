"""Checkers of images: a classifier of transformers, an HTTP service, or a class of the operator.

Each call takes up to seconds, so never on the engine's thread. Checkers raise any error if they
cannot check; the policy decides what that means.
"""

from __future__ import annotations

import importlib
import json
import threading
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import httpx2

from deployments.engine.threads import ONE_BUILDER
from serve_app.domain.endpoint import Weights
from weights.store import Store

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True, slots=True)
class ImageFinding:
    """Result of one image."""

    unsafe: bool
    label: str = ""
    score: float = 0.0  # 0 to 1; of the label


class ImageChecker(Protocol):
    """Checker of images. Thread-safe. A class of the operator's own has this method."""

    def check(self, image: Image, prompt: str) -> ImageFinding: ...


class Checkers:
    """All checkers of a replica, each made when it is first used. Thread-safe."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._made: dict[str, ImageChecker] = {}
        self._lock = threading.Lock()

    def checker(self, config: Mapping[str, Any]) -> ImageChecker:
        """Checker for a configuration (``CheckerConfig`` of the settings). May download weights."""
        name = json.dumps(config, sort_keys=True)
        with self._lock:
            loaded = self._made.get(name)
            if loaded is None:
                loaded = self._made[name] = self._make(config)
            return loaded

    def _make(self, config: Mapping[str, Any]) -> ImageChecker:
        if config.get("url"):
            return HttpChecker(str(config["url"]), float(config["timeout_s"]))
        if config.get("class_path"):
            module, _, name = str(config["class_path"]).partition(":")
            return getattr(importlib.import_module(module), name)()
        labels = frozenset(str(label).lower() for label in config["labels"])
        threshold = float(config["threshold"])
        if config.get("directory"):
            opened: Any = nullcontext(Path(config["directory"]))
        else:
            opened = self._store.open(Weights(config["repository"], config["revision"]))
        with opened as folder:
            return ClassifierChecker(folder, labels, threshold)


class ClassifierChecker:
    """Image classifier in the format of transformers, on the CPU."""

    def __init__(self, folder: Path, labels: frozenset[str], threshold: float) -> None:
        """``labels``: the unsafe ones, in lower case. ``threshold``: least sum of their scores.

        Raises ``ValueError`` if the classifier has none of the labels.
        """
        from transformers import (  # noqa: PLC0415
            AutoImageProcessor,
            AutoModelForImageClassification,
        )

        from deployments.engine.default_dtype import own_default_dtype  # noqa: PLC0415

        own = {"local_files_only": True}
        # Beside a pipeline that is loaded, its weights would get lost.
        with ONE_BUILDER, own_default_dtype():
            self._processor = AutoImageProcessor.from_pretrained(folder, **own)
            model = AutoModelForImageClassification.from_pretrained(
                folder, use_safetensors=True, **own
            )
        self._model = model.eval()
        names: Mapping[int, str] = model.config.id2label
        self._unsafe = {at: name for at, name in names.items() if name.lower() in labels}
        if not self._unsafe:
            raise ValueError(f"The classifier has the labels {', '.join(names.values())} only.")
        self._threshold = threshold
        self._lock = threading.Lock()  # one at a time: each uses all of torch's threads

    def check(self, image: Image, prompt: str) -> ImageFinding:
        del prompt
        import torch  # noqa: PLC0415

        inputs = self._processor(images=image.convert("RGB"), return_tensors="pt")
        with self._lock, torch.inference_mode():
            scores = self._model(**inputs).logits[0].float().softmax(-1)
        unsafe = {name: float(scores[at]) for at, name in self._unsafe.items()}
        total, label = sum(unsafe.values()), max(unsafe, key=lambda name: unsafe[name])
        return ImageFinding(total >= self._threshold, label, round(total, 4))


class HttpChecker:
    """HTTP service: gets a PNG, and the prompt in a header; answers JSON with ``unsafe``, and if it
    likes ``label`` and ``score``."""

    def __init__(
        self,
        url: str,
        timeout_s: float,
        send: Callable[..., httpx2.Response] = httpx2.post,
    ) -> None:
        self._url = url
        self._timeout_s = timeout_s
        self._send = send

    def check(self, image: Image, prompt: str) -> ImageFinding:
        buffer = BytesIO()
        image.convert("RGB").save(buffer, "PNG", compress_level=1)
        answer = self._send(
            self._url,
            content=buffer.getvalue(),
            headers={
                "content-type": "image/png",
                "x-darkroom-prompt": json.dumps(prompt, ensure_ascii=True),
            },
            timeout=self._timeout_s,
        )
        answer.raise_for_status()
        verdict = answer.json()
        unsafe = verdict["unsafe"]
        if not isinstance(unsafe, bool):
            raise TypeError("The service answered no boolean `unsafe`.")
        return ImageFinding(unsafe, str(verdict.get("label", "")), float(verdict.get("score", 0.0)))
