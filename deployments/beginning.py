"""Where an attempt begins: anew, or where the one before left its snapshot."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass

from deployments import parts_snapshot
from deployments.parts import Part, parts_of
from deployments.parts_snapshot import FinishedPart
from deployments.workshop import Workshop
from serve_app.domain.errors import DarkroomError, SnapshotRefused
from serve_app.domain.lease import Lease

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Beginning:
    parts: Sequence[Part]  # all
    finished: Sequence[FinishedPart] = ()  # the first of them, with the attempt's own tickets
    snapshot: bytes | None = None  # of the part after those, for the engine


async def beginning_of(lease: Lease, seed: int, workshop: Workshop) -> Beginning:
    """A snapshot that cannot be fetched or read is passed over. ``seed`` is for inputs that have
    none."""
    if lease.snapshot_url is None:
        return Beginning(parts_of(lease, seed))
    fetcher, loop = workshop.snapshot_fetcher, asyncio.get_running_loop()
    try:
        found = await fetcher.fetch(lease.snapshot_url, "snapshot", lease.files_url)
        return await loop.run_in_executor(workshop.encoders, read, lease, seed, found)
    except DarkroomError as error:
        log.warning("The snapshot cannot be read, so it starts anew. %s", error.message)
        return Beginning(parts_of(lease, seed))


def read(lease: Lease, seed: int, found: bytes) -> Beginning:
    """``SnapshotRefused`` for what is none of this request. That of a single call is left to the
    engine."""
    if not parts_snapshot.is_one(found):
        return Beginning(parts_of(lease, seed, together=True), (), found)
    parts = parts_of(lease, seed)
    finished, snapshot = parts_snapshot.of_bytes(found, [each.tickets for each in parts])
    if len(finished) >= len(parts):
        raise SnapshotRefused("It is of a request with more parts.")
    return Beginning(parts, finished, snapshot)
