"""The previews of one attempt, made one at a time while somebody looks."""

from __future__ import annotations

import logging
from concurrent.futures import Executor, Future
from typing import TYPE_CHECKING

from serve_app.domain.errors import Unsupported
from serve_app.domain.progress import Preview

if TYPE_CHECKING:  # they import torch
    from deployments.engine.generation import Generation
    from deployments.engine.preview import Preview as EnginePreview

log = logging.getLogger(__name__)


class Previewer:
    """``want`` asks for the next one, which is taken from the engine after its next step, encoded
    by ``encoders``, and waits here until ``take``. Whoever wants more than comes gets fewer, so the
    reports set the pace: at most one each.

    ``want``, ``take``, ``follow`` and ``unfollow`` are for one event loop; what the engine and the
    encoders call only sets an attribute.
    """

    def __init__(self, encoders: Executor) -> None:
        self._encoders = encoders
        self._generation: Generation | None = None
        self._asked: Future[EnginePreview] | None = None
        self._wanted = False
        self._step = 0  # of the newest
        self._made: Preview | None = None
        self._failed = False  # and it was said

    def follow(self, generation: Generation) -> None:
        """It has begun; who wanted a preview before then is not forgotten."""
        if self._asked is not None:  # of one before it
            self._asked.cancel()
        self._generation, self._step, self._asked, self._failed = generation, 0, None, False
        if self._wanted:
            self.want()

    def unfollow(self) -> None:
        """It has ended, or nobody may look any more."""
        asked, self._generation, self._made = self._asked, None, None
        if asked is not None:
            asked.cancel()

    def want(self) -> None:
        self._wanted = True
        if self._generation is None or self._asked is not None or self._made is not None:
            return
        self._wanted = False
        self._asked = asked = self._generation.ask_for_preview(after=self._step)
        asked.add_done_callback(self._on_taken)

    def take(self) -> Preview | None:
        """A new one, once."""
        made, self._made = self._made, None
        return made

    def _on_taken(self, asked: Future[EnginePreview]) -> None:
        """On the engine's thread, mostly."""
        if asked.cancelled():
            return
        error = asked.exception()
        if error is None:
            try:
                self._encoders.submit(self._encode, asked.result())
            except RuntimeError:  # they are closed already
                log.debug("A preview came when the replica had closed.")
            return
        # It stays asked for: what has no preview will have none later either.
        level = logging.DEBUG if isinstance(error, Unsupported) else logging.WARNING
        log.log(level, "There is no preview. %s", error)

    def _encode(self, preview: EnginePreview) -> None:
        """Whatever becomes of it, the generation goes on, and the next one is asked for."""
        try:
            made = Preview(preview.step, preview.jpeg())
        except Exception as error:
            if not self._failed:
                log.warning("A preview could not be made into a picture.", exc_info=error)
            self._failed, self._step, self._asked = True, preview.step, None
            return
        if self._generation is not None:
            self._step, self._made = made.step, made
        self._asked = None
