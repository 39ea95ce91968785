"""The frames of a suspended pipeline call: reading their local variables, and writing them.

Works on CPython 3.11 and later. All of it has to be called inside the generation's greenlet, where
the frames are the ordinary callers of whoever asks.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator, Mapping
from types import FrameType
from typing import Any

_NOT_ITS_OWN = ("torch.", "deployments.engine.", "greenlet", "functools", "contextlib")


def frames_of_the_pipeline() -> list[FrameType]:
    """From the one that called its denoiser outwards, without the engine's and the libraries'."""
    return [frame for frame in _outwards() if not _module(frame).startswith(_NOT_ITS_OWN)]


def place(frame: FrameType) -> str:
    """Which function it is of, and at which line."""
    return f"{_module(frame)}:{frame.f_code.co_qualname}:{frame.f_lineno}"


def write(frame: FrameType, names: Mapping[str, Any]) -> None:
    """Give local variables other values."""
    if not names:
        return
    # Reading `f_locals` again would bring it up to date and lose what was written.
    variables = frame.f_locals
    variables.update(names)
    if sys.version_info < (3, 13):  # from 3.13 on, the dictionary writes through
        ctypes.pythonapi.PyFrame_LocalsToFast(ctypes.py_object(frame), ctypes.c_int(0))


def _outwards() -> Iterator[FrameType]:
    frame: FrameType | None = sys._getframe()  # noqa: SLF001
    while frame is not None:
        yield frame
        frame = frame.f_back


def _module(frame: FrameType) -> str:
    return frame.f_globals.get("__name__", "")
