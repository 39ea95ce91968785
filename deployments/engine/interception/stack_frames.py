"""Stack frames of a suspended pipeline call: reading and writing their local variables.

Works on CPython 3.11 and later. All functions must be called inside the generation's greenlet,
where the frames are ordinary callers.
"""

from __future__ import annotations

import ctypes
import inspect
import sys
from collections.abc import Iterator, Mapping
from types import FrameType
from typing import Any

_NOT_ITS_OWN = ("torch.", "deployments.engine.", "greenlet", "functools", "contextlib")


def frames_of_the_pipeline() -> list[FrameType]:
    """Frames from the denoiser's caller outwards, without those of the engine and libraries."""
    return [frame for frame in _outwards() if not _module(frame).startswith(_NOT_ITS_OWN)]


def place(frame: FrameType) -> str:
    """Function and line of a frame."""
    return f"{_module(frame)}:{frame.f_code.co_qualname}:{frame.f_lineno}"


def read(frame: FrameType) -> dict[str, Any]:
    """Local variables of a frame, by name.

    Nothing of them stays with the frame. Up to Python 3.12, reading leaves a dictionary there,
    which would keep the tensors of that moment until the call ends.
    """
    variables = frame.f_locals
    values = dict(variables)
    if _is_copy(frame, variables) and sys.getrefcount(variables) <= _REFERENCES:
        variables.clear()
    return values


def write(frame: FrameType, names: Mapping[str, Any]) -> None:
    """Set local variables of a frame."""
    if not names:
        return
    # Reading `f_locals` again would refresh it and lose what was written.
    variables = frame.f_locals
    variables.update(names)
    if sys.version_info < (3, 13):  # since 3.13, the dictionary writes through
        ctypes.pythonapi.PyFrame_LocalsToFast(ctypes.py_object(frame), ctypes.c_int(0))
        if _is_copy(frame, variables) and sys.getrefcount(variables) <= _REFERENCES:
            variables.clear()


_REFERENCES = 3
"""References to a dictionary that only its frame keeps: its own, its reader's, `getrefcount`'s.

Code that has called `locals()` and kept the result holds the same dictionary. They are counted in
the reader itself: an argument of a function has another one while torch's compiler is at work.
"""


def _is_copy(frame: FrameType, variables: Mapping[str, Any]) -> bool:
    """Return whether the dictionary is a copy, not the variables themselves."""
    optimized = bool(frame.f_code.co_flags & inspect.CO_OPTIMIZED)
    return sys.version_info < (3, 13) and optimized and isinstance(variables, dict)


def _outwards() -> Iterator[FrameType]:
    frame: FrameType | None = sys._getframe()  # noqa: SLF001
    while frame is not None:
        yield frame
        frame = frame.f_back


def _module(frame: FrameType) -> str:
    return frame.f_globals.get("__name__", "")
