"""A clip that is written while it is decoded, so that its frames are never all in memory.

The engine hands frames over as the autoencoder makes them, and encoders write them down. Where they
come faster than they are written, the generation stands still for a while.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from concurrent.futures import Executor
from typing import TYPE_CHECKING

from deployments.clip_form import ClipForm
from deployments.scratch import Scratch
from serve_app.domain.artifact import EXTENSIONS

if TYPE_CHECKING:  # they import torch
    from torch import Tensor

    from deployments.engine.clip_file import ClipFile
    from deployments.engine.generation import Generation
    from deployments.engine.host_copy import HostCopy
    from deployments.engine.soundtrack import Soundtrack

MOST_WAITING = 32  # frames that are decoded and not written


class Recording:
    """Of one generation. ``begin`` and ``follow`` before frames come; ``take`` on the engine's
    thread; ``finish`` on an encoder's, after the last; ``abandon`` on any, at any time."""

    def __init__(
        self,
        form: ClipForm,
        sound_rate: int | None = None,
        leaves_out: int = 0,
        most_waiting: int = MOST_WAITING,
    ) -> None:
        """``sound_rate``: samples a second of the sound that ``finish`` gets; None: none.
        ``leaves_out``: frames at the start that do not belong to the clip."""
        self._form = form
        self._sound_rate = sound_rate
        self._leaves_out = leaves_out
        self._most_waiting = most_waiting
        self._scratch = Scratch()
        self._encoders: Executor | None = None
        self._generation: Generation | None = None
        self._lock = threading.Lock()  # of what follows
        self._frames: deque[HostCopy] = deque()  # uint8 [frames, height, width, 3] each
        self._waiting = 0  # frames in them
        self._error: BaseException | None = None
        self._writing = threading.Lock()  # of the file
        self._file: ClipFile | None = None

    def begin(self, scratch: Scratch, encoders: Executor) -> None:
        self._scratch, self._encoders = scratch, encoders

    def follow(self, generation: Generation) -> None:
        """The one whose frames come."""
        self._generation = generation

    def take(self, frames: Tensor) -> None:
        """``frames``: [frames, 3, height, width], 0 to 1, on the engine's device."""
        from deployments.engine.host_copy import host_copy  # noqa: PLC0415
        from deployments.engine.media import levels_of  # noqa: PLC0415

        skipped = min(self._leaves_out, len(frames))
        self._leaves_out -= skipped
        if skipped == len(frames):
            return
        copy = host_copy(levels_of(frames[skipped:]))
        with self._lock:
            if self._error is not None:
                return
            self._frames.append(copy)
            self._waiting += len(copy.tensor)
            if self._waiting >= self._most_waiting and self._generation is not None:
                self._generation.pause()
        if self._encoders is not None:
            with contextlib.suppress(RuntimeError):  # they are closed: the replica is ending
                self._encoders.submit(self._write)

    def finish(self, sound: Soundtrack | None = None) -> ClipFile | None:
        """The file, complete; None: no frames came, as the autoencoder makes all in one. Raises
        what went wrong with it."""
        with self._writing:
            self._write_waiting()
            if self._error is not None:
                raise self._error
            if self._file is not None:
                self._file.finish(sound)
            file, self._file = self._file, None
            return file

    def abandon(self) -> None:
        """Nobody wants it any more. Nothing happens after ``finish``."""
        with self._lock:
            self._frames.clear()
        if self._writing.acquire(blocking=False):
            try:
                self._give_up()
            finally:
                self._writing.release()

    def _write(self) -> None:
        # Whoever writes looks again after each frame; and once more after letting go, for what came
        # when it was about to.
        while self._frames and self._writing.acquire(blocking=False):
            try:
                self._write_waiting()
            finally:
                self._writing.release()

    def _write_waiting(self) -> None:
        with self._scratch.at_work():
            try:
                while (copy := self._next()) is not None:
                    copy.ready()
                    for pixels in copy.tensor.numpy():
                        self._file_begun().add(pixels)
            except BaseException as error:
                self._fail(error)

    def _next(self) -> HostCopy | None:
        with self._lock:
            if not self._frames:
                return None
            copy = self._frames.popleft()
            self._waiting -= len(copy.tensor)
            if self._waiting <= self._most_waiting // 2:
                self._go_on()
            return copy

    def _fail(self, error: BaseException) -> None:
        with self._lock:
            self._error = error
            self._frames.clear()
            self._go_on()
        self._give_up()

    def _go_on(self) -> None:
        if self._generation is not None:
            self._generation.unpause()

    def _file_begun(self) -> ClipFile:
        from deployments.engine.clip_file import ClipFile  # noqa: PLC0415

        if self._file is None:
            path = self._scratch.new_file(EXTENSIONS[self._form.media_type])
            self._file = ClipFile(path, self._form, self._scratch, self._sound_rate)
        return self._file

    def _give_up(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            file.give_up()
