"""Which pipelines are loaded, and loading more on demand.

Everything that was loaded stays. Loading happens on a thread of its own, one pipeline at a time, so
that running generations keep their steps and memory peaks do not add up.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from deployments.engine.engine import Engine
from deployments.engine.failures import as_callers_error

log = logging.getLogger(__name__)


class Residency:
    """Pipelines by name, each loaded once however many ask for it. Thread-safe."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._loaded: dict[str, Any] = {}
        self._loading: dict[str, Future[Any]] = {}
        self._lock = threading.Lock()
        self._loader = ThreadPoolExecutor(max_workers=1, thread_name_prefix="loader")

    def find(self, name: str) -> Any | None:
        """The loaded pipeline, or None."""
        return self._loaded.get(name)

    def load(self, name: str, load: Callable[[], Any]) -> Future[Any]:
        """The pipeline, now or later. A failed load is that of everybody who waits for it, and is
        forgotten: who asks afterwards tries again."""
        with self._lock:
            if (pipeline := self._loaded.get(name)) is not None:
                ready: Future[Any] = Future()
                ready.set_result(pipeline)
                return ready
            if name not in self._loading:
                self._loading[name] = self._loader.submit(self._load, name, load)
            return self._loading[name]

    def close(self) -> None:
        """Start no more loads. One that has begun is not waited for."""
        self._loader.shutdown(wait=False, cancel_futures=True)

    def _load(self, name: str, load: Callable[[], Any]) -> Any:
        log.info("Loading %s.", name)
        try:
            pipeline = load()
            self._engine.add(name, pipeline)
        except BaseException as error:
            self._forget(name)
            raise as_callers_error(error) from error
        with self._lock:
            self._loaded[name] = pipeline
            del self._loading[name]
        log.info("Loaded %s.", name)
        return pipeline

    def _forget(self, name: str) -> None:
        with self._lock:
            del self._loading[name]
