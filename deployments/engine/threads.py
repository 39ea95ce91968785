"""Thread pool that runs work in the context of its submitter, and the lock for building modules."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class Threads(ThreadPoolExecutor):
    """Thread pool whose log lines have the id of their request, as after ``asyncio.to_thread``.

    Python's own executor runs everything in an empty context.
    """

    def submit(self, fn: Callable[P, T], /, *arguments: P.args, **keywords: P.kwargs) -> Future[T]:
        return super().submit(copy_context().run, fn, *arguments, **keywords)


# Process-wide lock: modules are built by one thread at a time. While diffusers and transformers
# load weights, they change torch for the whole process: parameters that any other thread
# registers at that time lose their contents (diffusers#14347).

ONE_BUILDER = threading.Lock()
"""Lock to hold while a pipeline is loaded and while layers with weights are created."""
