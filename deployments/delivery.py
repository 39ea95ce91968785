"""The files of one attempt: made on a thread, then uploaded."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from deployments.engine.threads import Threads
from deployments.family import Family, GenerationCall, Made, Product
from deployments.recording import Recording
from deployments.scratch import Scratch
from deployments.workshop import Workshop
from serve_app.domain.artifact import Artifact, UploadTicket
from serve_app.domain.lease import Lease
from serve_app.domain.progress import Progress, Stage

if TYPE_CHECKING:  # it imports torch
    from deployments.engine.chunks import OnFrames

Files = tuple[Artifact, ...]


class Delivery:
    """Use on one event loop; ``on_progress`` is called on encoders' threads too."""

    def __init__(
        self, lease: Lease, workshop: Workshop, on_progress: Callable[[Progress], None]
    ) -> None:
        self.scratch = Scratch(self._on_made)
        self._lease = lease
        self._workshop = workshop
        self._on_progress = on_progress
        self._recording: Recording | None = None
        self._uploaded: list[UploadTicket] = []

    async def deliver(
        self,
        family: Family,
        call: GenerationCall,
        made: Made,
        tickets: Sequence[UploadTicket],
    ) -> tuple[Product, Files]:
        """What was made, uploaded."""
        made = replace(made, scratch=self.scratch)
        if not call.makes_files:
            return family.deliver(self._lease.endpoint, call, made, tickets), ()
        if call.recording is None:  # it has told how far it is
            self._on_progress(Progress(Stage.ENCODING_MEDIA))
        product, artifacts = await asyncio.get_running_loop().run_in_executor(
            self._threads(tickets), self._make, family, call, made, tickets
        )
        await self._upload(product)
        return product, artifacts

    async def deliver_again(self, product: Product) -> Files:
        """What another attempt made, with the tickets of this one."""
        loop = asyncio.get_running_loop()
        artifacts = await loop.run_in_executor(self._workshop.encoders, _artifacts, product)
        await self._upload(product)
        return artifacts

    async def discard(self) -> None:
        """Delete what was uploaded: nobody will ever read it."""
        for ticket in self._uploaded:
            await self._workshop.uploader.delete(ticket)

    def record(self, recording: Recording | None) -> OnFrames | None:
        """What the engine is to give frames to while it decodes them."""
        self._end_recording()
        self._recording = recording
        if recording is None:
            return None
        recording.begin(self.scratch, self._workshop.writers)
        return recording.take

    def _threads(self, tickets: Sequence[UploadTicket]) -> Threads:
        pictures = all(ticket.media_type.startswith("image/") for ticket in tickets[:1])
        return self._workshop.encoders if pictures else self._workshop.writers

    def close(self) -> None:
        """Stop what is still being made, and leave nothing on the disk."""
        self.scratch.close()
        self._end_recording()

    async def _upload(self, product: Product) -> None:
        for number, file in enumerate(product.files):
            self._on_progress(Progress(Stage.UPLOADING, number, len(product.files)))
            self._uploaded.append(file.ticket)
            await self._workshop.uploader.put(file)

    def _end_recording(self) -> None:
        if self._recording is not None:
            self._recording.abandon()

    def _make(
        self, family: Family, call: GenerationCall, made: Made, tickets: Sequence[UploadTicket]
    ) -> tuple[Product, Files]:
        with self.scratch.at_work():
            product = family.deliver(self._lease.endpoint, call, made, tickets)
            return product, _artifacts(product)

    def _on_made(self, done: int, total: int) -> None:
        self._on_progress(Progress(Stage.ENCODING_MEDIA, done, total))


def _artifacts(product: Product) -> Files:
    return tuple(file.artifact() for file in product.files)
