"""Keeps generations apart from loads that change torch's default dtype.

The default dtype is the process's and not the thread's. diffusers and transformers set it to the
dtype of the weights while they build a module, for 0.1 to 1 s with a real model. A tensor that a
generation creates in that time without a dtype would have that dtype.
"""

from __future__ import annotations

import threading
from collections.abc import Generator
from contextlib import ExitStack, contextmanager

import torch


class TurnGate:
    """Keeps the turns of engines apart from changes that would affect their tensors."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._turns = 0
        self._changes = 0  # made or waited for; no turn begins meanwhile, however busy the engine

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
