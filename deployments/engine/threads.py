"""Thread pool that runs work in the context of its submitter, and what keeps threads apart that
would change each other's tensors.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from contextvars import copy_context
from typing import ParamSpec, TypeVar

import torch

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


# torch's default dtype is the process's and not the thread's. diffusers and transformers set it to
# the dtype of the weights while they build a module, for 0.1 to 1 s with a real model. A tensor
# that a generation creates in that time without a dtype would have that dtype.


class TurnGate:
    """Keeps the turns of engines apart from changes that would affect their tensors."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._turns = 0
        self._changes = 0  # that are made or waited for: no turn begins then, so a busy engine
        # cannot keep a change waiting for longer than one turn

    @property
    def change_waits(self) -> bool:
        """True while a change is made or waited for."""
        return self._changes > 0

    @contextmanager
    def turn(self) -> Generator[None]:
        """Run a turn. Waits until no thread makes a change."""
        with self._condition:
            self._condition.wait_for(lambda: not self._changes)
            self._turns += 1
        try:
            yield
        finally:
            with self._condition:
                self._turns -= 1
                self._condition.notify_all()

    @contextmanager
    def change(self) -> Generator[None]:
        """Make a change. Waits for the end of the turns that run. Not to be called in a turn."""
        with self._condition:
            self._changes += 1
            self._condition.wait_for(lambda: not self._turns)
        try:
            yield
        finally:
            with self._condition:
                self._changes -= 1
                self._condition.notify_all()


TURNS = TurnGate()
"""Gate of all engines of this process."""


@contextmanager
def own_default_dtype() -> Generator[None]:
    """Let no engine run while torch's default dtype is changed inside the block, and undo a change
    that is left. The caller must hold ``ONE_BUILDER``.
    """
    usual, set_default_dtype = torch.get_default_dtype(), torch.set_default_dtype
    with ExitStack() as changed:

        def set_apart_from_turns(dtype: torch.dtype, /) -> None:
            if dtype != usual and torch.get_default_dtype() == usual:
                changed.enter_context(TURNS.change())
            set_default_dtype(dtype)
            if dtype == usual:
                changed.close()

        torch.set_default_dtype = set_apart_from_turns
        try:
            yield
        finally:
            torch.set_default_dtype = set_default_dtype
            set_default_dtype(usual)  # diffusers does not if the module cannot be built
