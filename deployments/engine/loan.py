"""What loads a pipeline, and who has it meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from deployments.engine.generation import OnProgress
from serve_app.domain.endpoint import Recipe
from serve_app.domain.progress import OnDownload

OnFound = Callable[[int], None]
"""Told the bytes that will be loaded, before they are read; returns when there is room for them."""


@dataclass(frozen=True, slots=True)
class Fetch:
    """How weights get onto this machine, on a thread for downloads."""

    is_here: Callable[[], bool]
    bring: Callable[[OnDownload], None]


@dataclass(frozen=True, slots=True)
class LoadPlan:
    """How weights get onto the device. The functions are called on the loader's thread."""

    load: Callable[[OnDownload, OnFound], Any]  # the pipeline, on the CPU
    recipe: Recipe | None = None
    # What ``Engine.submit`` takes for a short call of it, or of a ``view``.
    warm_up: Callable[[Any], Mapping[str, Any]] | None = None
    fetch: Fetch | None = None  # None: they are here


class Loan:
    """A pipeline that is not evicted before it is given back. ``future`` is the pipeline, now or
    later; it cannot be cancelled: give the loan back instead."""

    def __init__(self, name: str, on_progress: OnProgress | None) -> None:
        self.name = name
        self.held = False
        self.on_progress = on_progress
        self.future: Future[Any] = Future()
        self.future.set_running_or_notify_cancel()
