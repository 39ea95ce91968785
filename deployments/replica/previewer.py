"""Live previews of an attempt, made one at a time while a client watches."""

from __future__ import annotations

import logging
from concurrent.futures import Executor, Future
from typing import TYPE_CHECKING

from serve_app.domain.errors import Unsupported
from serve_app.domain.progress import Preview

if TYPE_CHECKING:  # they import torch
    from deployments.engine.loop.generation import Generation
    from deployments.engine.preview.preview import PreviewImage as EnginePreview

log = logging.getLogger(__name__)


class Previewer:
    """Preview of one attempt. ``want`` requests the next one. It is taken from the engine after the
    next step, encoded by ``encoders``, and kept until ``take``. Requests that come faster than
    previews are merged, so reports set the rate: at most one preview each.

    Call ``want``, ``take``, ``follow`` and ``unfollow`` on one event loop. The callbacks on the
    engine's and the encoders' threads only set attributes.
    """

    def __init__(self, encoders: Executor, *, marked: bool = False) -> None:
        """``marked``: previews say that they are AI-generated."""
        self._encoders = encoders
        self._marked = marked
        self._generation: Generation | None = None
        self._pending: Future[EnginePreview] | None = None
        self._wanted = False
        self._step = 0  # of the newest preview
        self._ready: Preview | None = None
        self._failed = False  # an encoding failed, and this has been logged

    def follow(self, generation: Generation) -> None:
        """Take previews from ``generation``. An earlier ``want`` still counts."""
        if self._pending is not None:  # of the generation before
            self._pending.cancel()
        self._generation, self._step, self._pending, self._failed = generation, 0, None, False
        if self._wanted:
            self.want()

    def unfollow(self) -> None:
        """Stop previews: the generation has ended, or no client may watch any more."""
        pending, self._generation, self._ready = self._pending, None, None
        if pending is not None:
            pending.cancel()

    def want(self) -> None:
        self._wanted = True
        if self._generation is None or self._pending is not None or self._ready is not None:
            return
        self._wanted = False
        self._pending = pending = self._generation.request_preview(after=self._step)
        pending.add_done_callback(self._on_taken)

    def take(self) -> Preview | None:
        """Return a new preview, once. None if there is none."""
        ready, self._ready = self._ready, None
        return ready

    def _on_taken(self, pending: Future[EnginePreview]) -> None:
        """Encode the preview. Usually called on the engine's thread."""
        if pending.cancelled():
            return
        error = pending.exception()
        if error is None:
            try:
                self._encoders.submit(self._encode, pending.result())
            except RuntimeError:  # the encoders are closed
                log.debug("A preview arrived after the replica closed.")
            return
        # ``_pending`` stays set: a generation without a preview will not have one later either.
        level = logging.DEBUG if isinstance(error, Unsupported) else logging.WARNING
        log.log(level, "No preview of this generation: %s", error)

    def _encode(self, preview: EnginePreview) -> None:
        """Encode a preview. A failure does not stop the generation or the next preview."""
        try:
            ready = Preview(preview.step, preview.jpeg(marked=self._marked))
        except Exception as error:
            if not self._failed:
                log.warning("A preview could not be encoded.", exc_info=error)
            self._failed, self._step, self._pending = True, preview.step, None
            return
        if self._generation is not None:
            self._step, self._ready = ready.step, ready
        self._pending = None
