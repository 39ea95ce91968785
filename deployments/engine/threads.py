"""Threads that work in the context of whoever gave them the work."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class Threads(ThreadPoolExecutor):
    """What they log has the id of the request it is about, as it has after ``asyncio.to_thread``.
    Python's own executor runs everything in an empty context."""

    def submit(self, fn: Callable[P, T], /, *arguments: P.args, **keywords: P.kwargs) -> Future[T]:
        return super().submit(copy_context().run, fn, *arguments, **keywords)
