"""A clip's file in the making: frames as they come, with their sound, and the first as a poster."""

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
        self, path: Path, form: ClipForm, scratch: Scratch, sound: Soundtrack | None = None
    ) -> None:
        self.path = path
        self.poster: Any = None  # Pillow's picture, in the form's size; None before the first frame
        self._form = form
        self._scratch = scratch
        self._sound = sound
        self._writer = ClipWriter(path, form, sound.rate if sound else None)

    def add(self, pixels: Pixels) -> None:
        self._scratch.check()
        form, number = self._form, self._writer.frames
        if number == form.num_frames:
            return
        if self.poster is None:
            self.poster = fit(Image.fromarray(pixels), form.width, form.height)
        self._writer.write(pixels)
        if self._sound is not None:
            self._writer.write_sound(self._sound.during(number / form.fps, (number + 1) / form.fps))
        self._scratch.on_made(number + 1, form.num_frames)

    def finish(self) -> None:
        """``PipelineFailed`` when there were too few frames."""
        if self._writer.frames < self._form.num_frames:
            self.give_up()
            raise PipelineFailed(
                f"{self._writer.frames} frames were made, and {self._form.num_frames} were asked "
                "for."
            )
        self._writer.finish()

    def give_up(self) -> None:
        """Nobody will read it."""
        self._writer.give_up()
