"""Translation of what a pipeline raises into the error for the generation's caller."""

from __future__ import annotations

import contextlib
import traceback
from types import FrameType

from deployments.engine.accelerator.errors import is_out_of_memory
from serve_app.domain.errors import OutOfMemory, PipelineFailed


def as_callers_error(error: BaseException) -> Exception:
    """Translate ``error`` for the caller of a generation.

    Returns ``OutOfMemory`` for the device's own error, ``PipelineFailed`` for one that would end a
    thread or a process (``SystemExit``, ``KeyboardInterrupt`` …), and any other error unchanged.
    """
    release_frames(error)
    if is_out_of_memory(error):
        message = " ".join([str(error), *getattr(error, "__notes__", [])])
        translated = OutOfMemory(f"The generation does not fit in memory: {message}")
        translated.__cause__ = error
        return translated
    if isinstance(error, Exception):
        return error
    failed = PipelineFailed(f"The pipeline raised {type(error).__name__}: {error}")
    failed.__cause__ = error
    return failed


def release_frames(error: BaseException) -> None:
    """Release the local variables, including tensors, that the traceback keeps alive.

    File names and line numbers stay, so the traceback can still be printed.
    """
    seen: set[int] = set()
    pending: list[BaseException | None] = [error]
    while pending:
        current = pending.pop()
        if current is None or id(current) in seen:
            continue
        seen.add(id(current))
        for frame, _ in traceback.walk_tb(current.__traceback__):
            _clear(frame)
        pending += [current.__cause__, current.__context__]


def _clear(frame: FrameType) -> None:
    # A frame that is still running cannot be cleared. Such frames are the engine's own.
    with contextlib.suppress(RuntimeError):
        frame.clear()
        # Up to Python 3.12, `locals()` (which pipelines call for their callbacks) leaves a dict on
        # the frame that `clear` does not empty. Reading it brings it up to date.
        _ = frame.f_locals
