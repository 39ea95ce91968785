"""Takes snapshots of what runs, so that another attempt goes on from there and not anew."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING

from deployments import parts_snapshot
from deployments.attempt import Attempt
from deployments.media_file import MediaFile
from deployments.parts_snapshot import FinishedPart
from deployments.replica_config import ReplicaConfig
from deployments.workshop import Workshop
from serve_app.domain.artifact import UploadTicket
from serve_app.domain.errors import DarkroomError, SnapshotRefused
from serve_app.domain.lease import Held
from serve_app.domain.snapshot import StoredSnapshot
from serve_app.telemetry.logs import request_id

if TYPE_CHECKING:  # it imports torch
    from deployments.engine.generation import Generation
    from deployments.engine.snapshot import Snapshot

log = logging.getLogger(__name__)


class Keeper:
    """So often that no more than ``snapshot_interval_s`` of a generation's time in the engine is
    ever lost, and when the replica closes: it wants a ticket, a report gets it, the snapshot is
    taken and uploaded, and the next report tells its key. Use on one event loop.
    """

    def __init__(
        self,
        attempts: Mapping[Held, Attempt],
        workshop: Callable[[], Workshop],
        config: ReplicaConfig,
    ) -> None:
        self._attempts = attempts
        self._workshop = workshop
        self._config = config
        self._kept_at: dict[Held, float] = {}
        self._latest: dict[Held, StoredSnapshot] = {}
        self._told: dict[Held, StoredSnapshot] = {}
        self._refused: set[Held] = set()
        self._at_decoding: dict[Held, Future[Snapshot]] = {}  # that are kept; none comes after
        self._taking: dict[Held, asyncio.Task[None]] = {}

    def wants(self) -> tuple[Held, ...]:
        """Attempts that want a ticket now."""
        interval_s = self._config.snapshot_interval_s
        if not interval_s:
            return ()
        # A report brings the ticket and the next tells of the snapshot; by then the one before is
        # to be no older than the interval. But half of it always passes.
        ahead_s = 3 * self._config.report_interval_s
        return self._older_than(max(interval_s - ahead_s, interval_s / 2))

    def wants_now(self) -> tuple[Held, ...]:
        """The same before the end: all that have something to lose."""
        return self._older_than(self._config.snapshot_worth_s)

    def untold(self) -> tuple[tuple[Held, StoredSnapshot], ...]:
        """What no report has told yet."""
        self._forget_ended()
        latest = self._latest.items()
        return tuple((held, each) for held, each in latest if self._told.get(held) != each)

    def told(self, snapshots: Sequence[tuple[Held, StoredSnapshot]]) -> None:
        """A report that told these was answered."""
        self._told.update(snapshots)

    def latest(self, held: Held) -> StoredSnapshot | None:
        return self._latest.get(held)

    def take(self, tickets: Sequence[tuple[Held, UploadTicket]]) -> None:
        """Tickets have come. What has ended meanwhile needs none."""
        for held, ticket in tickets:
            attempt = self._attempts.get(held)
            if attempt is None or (generation := attempt.generation) is None:
                continue
            if held not in self._taking:
                work = self._take(held, generation, attempt, ticket)
                task = asyncio.create_task(work)
                self._taking[held] = task
                task.add_done_callback(lambda _, held=held: self._taking.pop(held, None))

    async def taken(self, by: float) -> None:
        """Wait until all are uploaded, at the latest ``by`` on the loop's clock."""
        if self._taking:
            left_s = max(by - asyncio.get_running_loop().time(), 0)
            await asyncio.wait(set(self._taking.values()), timeout=left_s)

    async def aclose(self) -> None:
        tasks = list(self._taking.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _older_than(self, age_s: float) -> tuple[Held, ...]:
        now = self._workshop().clock.monotonic()
        return tuple(
            held
            for held, attempt in self._attempts.items()
            if attempt.generation is not None
            and held not in self._refused
            and held not in self._taking
            and not self._has_the_last_of(attempt)
            and now - self._kept_at.get(held, attempt.in_engine_since) >= age_s
        )

    async def _take(
        self,
        held: Held,
        generation: Generation,
        attempt: Attempt,
        ticket: UploadTicket,
    ) -> None:
        request_id.set(held.request_id)
        workshop, finished, at_decoding = self._workshop(), attempt.finished, attempt.at_decoding
        began = workshop.clock.monotonic()
        try:
            snapshot = await asyncio.wrap_future(at_decoding or generation.ask_for_snapshot())
            loop = asyncio.get_running_loop()
            body = await loop.run_in_executor(workshop.encoders, _bytes_of, snapshot, finished)
            await workshop.uploader.put(MediaFile(ticket, body))
        except SnapshotRefused as error:
            if not generation.done() and generation.steps_done:
                self._refused.add(held)
                log.info("No more snapshots are taken of attempt %d. %s", held.attempt, error)
            return
        except DarkroomError as error:
            log.warning("A snapshot of attempt %d is lost: %s", held.attempt, error.message)
            return
        self._kept_at[held] = began
        if at_decoding is not None:
            self._at_decoding[held] = at_decoding
        step = snapshot.step + sum(each.steps for each in finished or ())
        self._latest[held] = StoredSnapshot(ticket.key, step)
        log.debug("Attempt %d has a snapshot at step %d.", held.attempt, step)

    def _has_the_last_of(self, attempt: Attempt) -> bool:
        """What was kept is of where its decoding began; there is none after that."""
        kept = self._at_decoding.get(attempt.held)
        return kept is not None and kept is attempt.at_decoding

    def _forget_ended(self) -> None:
        for each in (self._kept_at, self._latest, self._told, self._at_decoding):
            for held in [held for held in each if held not in self._attempts]:
                del each[held]
        self._refused &= set(self._attempts)


def _bytes_of(snapshot: Snapshot, finished: Sequence[FinishedPart] | None) -> bytes:
    body = snapshot.to_bytes()
    return body if finished is None else parts_snapshot.to_bytes(finished, body)
