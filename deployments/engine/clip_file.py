"""A clip's file in the making: frames as they come, their sound, and the first as a poster."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PIL import Image

from deployments.clip_form import ClipForm
from deployments.engine.clip import ClipWriter, Pixels
from deployments.engine.media import fit
from deployments.engine.soundtrack import Soundtrack
from deployments.scratch import Scratch
from serve_app.domain.errors import PipelineFailed


class ClipFile:
    """For one thread at a time. ``add`` raises ``Cancelled`` when nobody wants the file any more.

    Frames after the last that the form asks for are left out.
    """

    def __init__(
        self, path: Path, form: ClipForm, scratch: Scratch, sound_rate: int | None = None
    ) -> None:
        """``sound_rate``: samples a second of the sound that ``finish`` gets; None: none."""
        self.path = path
        self.poster: Any = None  # Pillow's picture, in the form's size; None before the first frame
        self._form = form
        self._scratch = scratch
        self._writer = ClipWriter(path, form, sound_rate)

    def add(self, pixels: Pixels) -> None:
        self._scratch.check()
        form, number = self._form, self._writer.frames
        if number == form.num_frames:
            return
        if self.poster is None:
            self.poster = fit(Image.fromarray(pixels), form.width, form.height)
        self._writer.write(pixels)
        self._scratch.on_made(number + 1, form.num_frames)

    def finish(self, sound: Soundtrack | None = None) -> None:
        """``PipelineFailed`` when there were too few frames."""
        form = self._form
        if self._writer.frames < form.num_frames:
            self.give_up()
            raise PipelineFailed(
                f"{self._writer.frames} frames were made, and {form.num_frames} were asked for."
            )
        try:
            if sound is not None:
                self._write(sound)
        except BaseException:
            self.give_up()
            raise
        self._writer.finish()

    def give_up(self) -> None:
        """Nobody will read it."""
        self._writer.give_up()

    def _write(self, sound: Soundtrack) -> None:
        fps = self._form.fps
        for number in range(self._form.num_frames):
            self._scratch.check()
            self._writer.write_sound(sound.during(number / fps, (number + 1) / fps))
