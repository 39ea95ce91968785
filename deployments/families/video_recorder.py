"""Video recording during decoding, so that the frames are never all in memory.

The engine passes frames on as the autoencoder makes them, and encoder threads write them to a file.
If frames arrive faster than they are written, the generation is paused for a while.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from concurrent.futures import Executor
from typing import TYPE_CHECKING

from deployments.engine.media.scratch import Scratch
from deployments.engine.media.video_format import VideoForm
from serve_app.domain.artifact import EXTENSIONS

if TYPE_CHECKING:  # they import torch
    from torch import Tensor

    from deployments.engine.accelerator.interface import Accelerator, HostCopy
    from deployments.engine.loop.generation import Generation
    from deployments.engine.media.audio import Soundtrack
    from deployments.engine.media.video_writer import VideoFile

MAX_QUEUED_FRAMES = 32  # frames that are decoded but not written


class VideoRecorder:
    """Recording of one generation. Call ``begin`` and ``follow`` before the first frame, ``take``
    on the engine's thread, ``finish`` on an encoder thread after the last frame, and ``abandon`` on
    any thread at any time."""

    def __init__(
        self,
        form: VideoForm,
        audio_rate: int | None = None,
        leaves_out: int = 0,
        most_waiting: int = MAX_QUEUED_FRAMES,
    ) -> None:
        """``audio_rate``: sample rate in Hz of the audio that ``finish`` receives; None: no audio.
        ``leaves_out``: frames at the start that do not belong to the video."""
        self._form = form
        self._audio_rate = audio_rate
        self._leaves_out = leaves_out
        self._most_waiting = most_waiting
        self._scratch = Scratch()
        self._encoders: Executor | None = None
        self._accelerator: Accelerator | None = None
        self._generation: Generation | None = None
        self._lock = threading.Lock()  # protects the next three attributes
        # Each uint8 [frames, height, width, 3], and a boolean [1]: the model's values were finite.
        self._frames: deque[tuple[HostCopy, HostCopy]] = deque()
        self._waiting = 0  # number of frames in ``_frames``
        self._error: BaseException | None = None
        self._writing = threading.Lock()  # protects the file
        self._file: VideoFile | None = None

    def begin(self, scratch: Scratch, encoders: Executor, accelerator: Accelerator) -> None:
        """``accelerator``: the engine's device, from which the frames are copied."""
        self._scratch, self._encoders, self._accelerator = scratch, encoders, accelerator

    def follow(self, generation: Generation) -> None:
        """Set the generation whose frames arrive, to pause it when needed."""
        self._generation = generation

    def take(self, frames: Tensor) -> None:
        """Queue ``frames``: [frames, 3, height, width], 0 to 1, on the engine's device."""
        from deployments.engine.media.images import finite, levels_of  # noqa: PLC0415

        if self._accelerator is None:
            raise RuntimeError("The recording has not begun.")
        skipped = min(self._leaves_out, len(frames))
        self._leaves_out -= skipped
        if skipped == len(frames):
            return
        frames = frames[skipped:]
        copy = self._accelerator.to_host(levels_of(frames))
        # What it finds is read by the encoders: the engine waits for no copy.
        finite_copy = self._accelerator.to_host(finite(frames))
        with self._lock:
            if self._error is not None:
                return
            self._frames.append((copy, finite_copy))
            self._waiting += len(copy.tensor)
            if self._waiting >= self._most_waiting and self._generation is not None:
                self._generation.pause()
        if self._encoders is not None:
            with contextlib.suppress(RuntimeError):  # the encoders are closed: the replica ends
                self._encoders.submit(self._write)

    def finish(self, audio: Soundtrack | None = None) -> VideoFile | None:
        """Complete the file and return it. None if no frames arrived, because the autoencoder makes
        all frames at once. Raises the error of a failed write."""
        with self._writing:
            self._write_waiting()
            if self._error is not None:
                raise self._error
            if self._file is not None:
                self._file.finish(audio)
            file, self._file = self._file, None
            return file

    def abandon(self) -> None:
        """Discard the recording. Does nothing after ``finish``."""
        with self._lock:
            self._frames.clear()
        if self._writing.acquire(blocking=False):
            try:
                self._abort()
            finally:
                self._writing.release()

    def _write(self) -> None:
        # The lock's holder checks for frames after each frame. The loop checks once more after
        # releasing the lock, for frames that arrived just before.
        while self._frames and self._writing.acquire(blocking=False):
            try:
                self._write_waiting()
            finally:
                self._writing.release()

    def _write_waiting(self) -> None:
        from deployments.engine.media.images import require_finite  # noqa: PLC0415

        with self._scratch.busy():
            try:
                while (waiting := self._next()) is not None:
                    copy, finite_copy = waiting
                    copy.ready()
                    finite_copy.ready()
                    require_finite(finite_copy.tensor)
                    for pixels in copy.tensor.numpy():
                        self._file_begun().add(pixels)
            except BaseException as error:
                self._fail(error)

    def _next(self) -> tuple[HostCopy, HostCopy] | None:
        with self._lock:
            if not self._frames:
                return None
            waiting = self._frames.popleft()
            self._waiting -= len(waiting[0].tensor)
            if self._waiting <= self._most_waiting // 2:
                self._go_on()
            return waiting

    def _fail(self, error: BaseException) -> None:
        with self._lock:
            self._error = error
            self._frames.clear()
            self._go_on()
        self._abort()

    def _go_on(self) -> None:
        if self._generation is not None:
            self._generation.resume()

    def _file_begun(self) -> VideoFile:
        from deployments.engine.media.video_writer import VideoFile  # noqa: PLC0415

        if self._file is None:
            path = self._scratch.new_file(EXTENSIONS[self._form.media_type])
            self._file = VideoFile(path, self._form, self._scratch, self._audio_rate)
        return self._file

    def _abort(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            file.abort()
