"""The call that the running code belongs to: its progress, its cancellation, its folder."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextvars import Context, ContextVar, copy_context
from pathlib import Path
from typing import Any, SupportsInt


class Cancelled(BaseException):
    """Raised by ``progress`` in a method whose request was cancelled. Let it pass."""


def is_async(method: Callable[..., Any]) -> bool:
    """True for a method whose calls run on the event loop."""
    return inspect.iscoroutinefunction(method) or inspect.isasyncgenfunction(method)


def _ignore(step: int, steps: int) -> None:
    """Ignore progress, where no client can see it."""


class Call:
    """A call of an endpoint's method."""

    def __init__(
        self,
        on_progress: Callable[[int, int], None] = _ignore,
        request_id: str = "",
        folder: Path | None = None,
    ) -> None:
        """``on_progress`` gets the steps that are done, and all steps or 0. ``folder``: for files;
        None: the system's folder for temporary files."""
        self._on_progress = on_progress
        self.request_id = request_id
        self.folder = folder
        self.cancelled = False
        self.dumped: set[str] = set()  # paths of files that its method has turned into JSON

    def progress(self, step: SupportsInt, steps: SupportsInt) -> None:
        """The numbers may be NumPy's."""
        if self.cancelled:
            raise Cancelled
        self._on_progress(int(step), int(steps))


_CURRENT: ContextVar[Call | None] = ContextVar("darkroom_call", default=None)


def progress(step: int, steps: int = 0) -> None:
    """Report that ``step`` steps of ``steps`` are done; 0: their number is not known.

    Raises ``Cancelled`` if the request was cancelled. Does nothing outside of a request.
    """
    if (call := _CURRENT.get()) is not None:
        call.progress(step, steps)


def current() -> Call | None:
    """The call that this thread or task belongs to."""
    return _CURRENT.get()


def folder() -> Path | None:
    """Folder for files of the current call, made with the first one. None: the system's."""
    call = _CURRENT.get()
    if call is None or call.folder is None:
        return None
    call.folder.mkdir(parents=True, exist_ok=True)
    return call.folder


def context_of(call: Call) -> Context:
    """Context in which ``call`` is the current one. All steps of a call run in it: those of a
    generator may run on several threads, between those of others."""
    context = copy_context()
    context.run(_CURRENT.set, call)
    return context
