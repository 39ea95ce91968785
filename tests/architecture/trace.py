"""Trace of our own functions: which are called, in which order, on any thread or greenlet."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from types import CodeType, FrameType
from typing import Any

from greenlet import settrace

PACKAGES = "deployments", "serve_app", "weights"

RESUME_AFTER = 0b11
"""Bits in the argument of the opcode ``RESUME``: 0 at the start of a function, else what it
continues after (``yield``, ``yield from``, ``await``)."""

ORIGIN: ContextVar[str] = ContextVar("origin", default="")
"""Mark of the calls that a task makes, set by that task. The tasks that it begins, and the threads
of ``asyncio.to_thread``, inherit it."""

UPLOAD = "upload"
"""Origin of the calls that serve the upload of an artifact. ``scene`` marks them."""


@dataclass(frozen=True, slots=True)
class Call:
    """Begin of one of our functions. ``function`` is its qualified name in ``module``."""

    module: str
    function: str
    thread: str  # the thread's name
    task: str  # qualified name of the coroutine that its asyncio task runs; empty outside of tasks
    origin: str  # ``ORIGIN``

    @property
    def name(self) -> str:
        return f"{self.module}.{self.function}"


@dataclass(frozen=True, slots=True)
class _Function:
    module: str
    name: str
    bytecode: bytes


class Recorder:
    """Records which functions of ``PACKAGES`` begin, in their order.

    The hook is ``sys.setprofile``, which is per thread. Start the recorder before the threads that
    it must see. Each thread also gets a hook for greenlets: the engine runs a generation in a
    greenlet, and a new greenlet begins without the thread's profile hook. A coroutine that
    continues after an ``await`` is not recorded again. Bodies of modules and classes are not
    functions. Methods that dataclasses generate belong to the module of their class.
    """

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self._known: dict[tuple[CodeType, str], _Function | None] = {}
        self._thread = threading.local()

    def start(self) -> None:
        threading.setprofile(self._hook)
        sys.setprofile(self._hook)

    def stop(self) -> None:
        threading.setprofile(None)
        sys.setprofile(None)

    def _hook(self, frame: FrameType, event: str, argument: object) -> None:
        del argument
        if event != "call":
            return
        if not hasattr(self._thread, "name"):
            self._thread.name = threading.current_thread().name
            settrace(self._switched)
        key = frame.f_code, frame.f_globals.get("__name__") or ""
        try:
            known = self._known[key]
        except KeyError:
            known = self._known[key] = _ours(*key)
        if known is not None and not known.bytecode[frame.f_lasti + 1] & RESUME_AFTER:
            self.calls.append(
                Call(known.module, known.name, self._thread.name, _task(), ORIGIN.get())
            )

    def _switched(self, event: str, greenlets: Any) -> None:
        del event, greenlets
        sys.setprofile(self._hook)  # called inside the greenlet that continues


def _task() -> str:
    try:
        task = asyncio.current_task()
    except RuntimeError:  # a thread without an event loop
        return ""
    return "" if task is None else task.get_coro().__qualname__


def _ours(code: CodeType, module: str) -> _Function | None:
    if module.split(".", 1)[0] not in PACKAGES or code.co_name == "<module>":
        return None
    if not code.co_flags & 0x2:  # not a function: the body of a class
        return None
    return _Function(module, code.co_qualname.replace(".<locals>", ""), code.co_code)


def find(calls: Sequence[Call], spine: Sequence[str], begin: int = 0) -> list[int] | None:
    """Indices of the functions of ``spine`` in ``calls``, in order; None if one is missing."""
    indices: list[int] = []
    at = begin
    for name in spine:
        while at < len(calls) and calls[at].name != name:
            at += 1
        if at == len(calls):
            return None
        indices.append(at)
        at += 1
    return indices
