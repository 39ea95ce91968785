"""Periodic snapshots of running generations, so that a retry resumes from them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING

from deployments.replica import resume
from deployments.replica.attempt import Attempt
from deployments.replica.attempt_state import AttemptState
from deployments.replica.config import SnapshotConfig
from deployments.replica.reporter import Snapshots
from deployments.replica.resources import ReplicaResources
from deployments.replica.resume import FinishedOutput
from deployments.transfer.uploader import MediaFile
from serve_app.domain.artifact import UploadTicket
from serve_app.domain.errors import DarkroomError, SnapshotRefused
from serve_app.domain.lease import LeaseKey
from serve_app.domain.progress import StoredSnapshot
from serve_app.telemetry.logs import request_id

if TYPE_CHECKING:  # it imports torch
    from deployments.engine.loop.generation import Generation
    from deployments.engine.snapshot.format import Snapshot

log = logging.getLogger(__name__)


class Snapshotter(Snapshots):
    """Takes snapshots, so that at most ``snapshot_interval_s`` of a generation's engine time is
    lost. Also takes them when the replica closes. Sequence: a report asks for an upload ticket, the
    reply brings it, the snapshot is taken and uploaded, and the next report carries its key. Use on
    one event loop.
    """

    def __init__(
        self,
        attempts: Mapping[LeaseKey, Attempt],
        resources: Callable[[], ReplicaResources],
        config: SnapshotConfig,
        report_interval_s: float,
    ) -> None:
        self._attempts = attempts
        self._resources = resources
        self._config = config
        self._report_interval_s = report_interval_s
        self._taken_at: dict[LeaseKey, float] = {}
        self._latest: dict[LeaseKey, StoredSnapshot] = {}
        self._reported: dict[LeaseKey, StoredSnapshot] = {}
        self._refused: set[LeaseKey] = set()
        # Stored; each is the last of its generation.
        self._at_decoding: dict[LeaseKey, Future[Snapshot]] = {}
        self._taking: dict[LeaseKey, asyncio.Task[None]] = {}

    def wants_tickets(self) -> tuple[LeaseKey, ...]:
        interval_s = self._config.interval_s
        if not interval_s:
            return ()
        # One report brings the ticket and the next one carries the snapshot's key. By then the
        # previous snapshot must not be older than the interval. At least half of it always passes.
        ahead_s = 3 * self._report_interval_s
        return self._older_than(max(interval_s - ahead_s, interval_s / 2))

    def wants_tickets_at_shutdown(self) -> tuple[LeaseKey, ...]:
        return self._older_than(self._config.worth_s)

    def list_unreported(self) -> tuple[tuple[LeaseKey, StoredSnapshot], ...]:
        self._forget_ended()
        latest = self._latest.items()
        return tuple(
            (key, snapshot) for key, snapshot in latest if self._reported.get(key) != snapshot
        )

    def mark_reported(self, snapshots: Sequence[tuple[LeaseKey, StoredSnapshot]]) -> None:
        self._reported.update(snapshots)

    def latest(self, lease_key: LeaseKey) -> StoredSnapshot | None:
        return self._latest.get(lease_key)

    def use_tickets(self, tickets: Sequence[tuple[LeaseKey, UploadTicket]]) -> None:
        """Use the tickets that arrived. Attempts that have ended in between need none."""
        for key, ticket in tickets:
            attempt = self._attempts.get(key)
            if attempt is None or (generation := attempt.state.generation) is None:
                continue
            if key not in self._taking:
                task = asyncio.create_task(self._take(key, generation, attempt.state, ticket))
                self._taking[key] = task
                task.add_done_callback(lambda _, key=key: self._taking.pop(key, None))

    async def wait_uploaded(self, by: float) -> None:
        """Wait until all snapshots are uploaded, but no later than ``by`` (event loop time)."""
        if self._taking:
            left_s = max(by - asyncio.get_running_loop().time(), 0)
            await asyncio.wait(set(self._taking.values()), timeout=left_s)

    async def aclose(self) -> None:
        tasks = list(self._taking.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _older_than(self, age_s: float) -> tuple[LeaseKey, ...]:
        now = self._resources().clock.monotonic()
        return tuple(
            key
            for key, attempt in self._attempts.items()
            if attempt.state.generation is not None
            and key not in self._refused
            and key not in self._taking
            and not self._has_last(key, attempt.state)
            and now - self._taken_at.get(key, attempt.state.in_engine_since) >= age_s
        )

    async def _take(
        self,
        lease_key: LeaseKey,
        generation: Generation,
        state: AttemptState,
        ticket: UploadTicket,
    ) -> None:
        request_id.set(lease_key.request_id)
        resources, finished, at_decoding = (
            self._resources(),
            state.finished_outputs,
            state.decoding_snapshot,
        )
        began = resources.clock.monotonic()
        try:
            snapshot = await asyncio.wrap_future(at_decoding or generation.request_snapshot())
            loop = asyncio.get_running_loop()
            body = await loop.run_in_executor(resources.encoders, _bytes_of, snapshot, finished)
            await resources.uploader.put(MediaFile(ticket, body))
        except SnapshotRefused as error:
            if not generation.done() and generation.steps_done:
                self._refused.add(lease_key)
                log.info("Snapshots of attempt %d are disabled. %s", lease_key.attempt, error)
            return
        except DarkroomError as error:
            log.warning(
                "A snapshot of attempt %d was not stored: %s", lease_key.attempt, error.message
            )
            return
        self._taken_at[lease_key] = began
        if at_decoding is not None:
            self._at_decoding[lease_key] = at_decoding
        step = snapshot.step + sum(output.steps for output in finished or ())
        self._latest[lease_key] = StoredSnapshot(ticket.key, step)
        log.debug("Attempt %d has a snapshot at step %d.", lease_key.attempt, step)

    def _has_last(self, lease_key: LeaseKey, state: AttemptState) -> bool:
        """True if the snapshot at the start of decoding is stored: no later one is possible."""
        stored = self._at_decoding.get(lease_key)
        return stored is not None and stored is state.decoding_snapshot

    def _forget_ended(self) -> None:
        for table in (self._taken_at, self._latest, self._reported, self._at_decoding):
            for ended_key in [key for key in table if key not in self._attempts]:
                del table[ended_key]
        self._refused &= set(self._attempts)


def _bytes_of(snapshot: Snapshot, finished: Sequence[FinishedOutput] | None) -> bytes:
    body = snapshot.to_bytes()
    return body if finished is None else resume.to_bytes(finished, body)
