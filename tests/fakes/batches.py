"""Batches in memory, over the rows of the fake queue."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from serve_app.domain.audit.acts import Actor
from serve_app.domain.batches.batch import (
    BatchError,
    BatchFile,
    BatchLine,
    BatchStatus,
    BatchStop,
    EndedLine,
    LineResult,
    NewBatch,
    StoredBatch,
)
from serve_app.domain.ports import Clock
from serve_app.domain.upload import UploadBook
from serve_app.queue.batches.batches import too_many_batches
from serve_app.queue.batches.work import MAX_ERRORS
from tests.fakes.jobs import FakeJobs
from tests.fakes.queue_row import Row

EARLY = BatchStatus.VALIDATING, BatchStatus.IN_PROGRESS


class FakeBatchFiles:
    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._files: dict[str, BatchFile] = {}
        self.uploads: UploadBook | None = None  # where their content is

    async def add(
        self, file_id: str, tenant: str, key: str, name: str, purpose: str, batch: str | None = None
    ) -> BatchFile | None:
        kept = await self.uploads.find_file(tenant, key) if self.uploads else None
        if kept is None:
            return None
        now = self._clock.now()
        file = BatchFile(
            *(file_id, tenant, key, name, purpose, kept.size, now, kept.expires_at, batch)
        )
        self._files[file_id] = file
        return file

    async def get(
        self, tenant: str, file_id: str, batches_of: str | None = None
    ) -> BatchFile | None:
        kept = await self._kept(tenant, batches_of)
        return next((file for file in kept if file.id == file_id), None)

    async def page(
        self,
        tenant: str,
        *,
        purpose: str | None = None,
        after: str | None = None,
        after_at: datetime | None = None,
        limit: int = 20,
        ascending: bool = False,
        batches_of: str | None = None,
    ) -> Sequence[BatchFile]:
        files = sorted(
            [x for x in await self._kept(tenant, batches_of) if purpose in (None, x.purpose)],
            key=lambda x: (x.created_at, x.id),
            reverse=not ascending,
        )
        if after is not None:
            known = {file.id: file.created_at for file in files}
            at = after_at or known.get(after)
            beyond = operator.gt if ascending else operator.lt
            files = [x for x in files if at and beyond((x.created_at, x.id), (at, after))]
        return files[:limit]

    async def written_by(self, batch: str) -> Sequence[BatchFile]:
        tenants = {file.tenant for file in self._files.values()}
        kept = [file for tenant in tenants for file in await self._kept(tenant)]
        return [file for file in kept if file.batch == batch]

    async def _kept(self, tenant: str, batches_of: str | None = None) -> Sequence[BatchFile]:
        assert self.uploads is not None
        own = [file for file in self._files.values() if file.tenant == tenant]
        return [file for file in own if await self.uploads.find_file(tenant, file.key, batches_of)]

    def writer(self, key: str) -> str | None:
        """Id of the batch that wrote an upload."""
        return next((file.batch for file in self._files.values() if file.key == key), None)


@dataclass
class _Line:
    line: BatchLine
    state: str = "waiting"
    result: LineResult | None = None


@dataclass
class _Entry:
    batch: StoredBatch
    webhook: str | None
    lines: dict[int, _Line] = field(default_factory=dict[int, _Line])

    def read(self, clock: Clock) -> StoredBatch:
        return replace(self.batch, read_at=clock.now())

    def change(self, **changes: Any) -> None:
        self.batch = replace(self.batch, **changes)

    def of(self, *states: str) -> Sequence[_Line]:
        rows = [row for row in self.lines.values() if row.state in states]
        return sorted(rows, key=lambda row: row.line.line)


class FakeBatches:
    """Batches and their progress: ``work`` is this object too."""

    def __init__(self, clock: Clock, rows: Mapping[str, Row], note: Callable[..., None]) -> None:
        self._clock, self._rows, self._note = clock, rows, note
        self._entries: dict[str, _Entry] = {}
        self.files = FakeBatchFiles(clock)
        self.jobs = FakeJobs(clock)

    @property
    def work(self) -> FakeBatches:
        return self

    async def create(self, new: NewBatch, most_active: int) -> StoredBatch:
        own = [x for x in self._entries.values() if x.batch.tenant == new.tenant]
        if sum(not entry.batch.status.final for entry in own) >= most_active:
            raise too_many_batches(most_active)
        now = self._clock.now()
        batch = StoredBatch(
            id=new.id,
            tenant=new.tenant,
            key_id=new.key_id,
            origin=new.origin,
            endpoint=new.endpoint,
            input_file=new.input_file,
            input_key=new.input_key,
            status=BatchStatus.VALIDATING,
            created_at=now,
            expires_at=now + timedelta(seconds=new.window_s),
            read_at=now,
            metadata=new.metadata,
            keep_outputs_s=new.keep_outputs_s,
            max_cost=new.max_cost,
            headers=new.headers,
        )
        self._entries[new.id] = _Entry(batch, new.webhook)
        return batch

    async def get(self, tenant: str, batch: str) -> StoredBatch | None:
        stored = await self.find(batch)
        return stored if stored is not None and stored.tenant == tenant else None

    async def page(
        self,
        tenant: str,
        after: str | None = None,
        limit: int = 20,
        *,
        after_at: datetime | None = None,
    ) -> Sequence[StoredBatch]:
        own = [x.read(self._clock) for x in self._entries.values() if x.batch.tenant == tenant]
        own.sort(key=lambda batch: (batch.created_at, batch.id), reverse=True)
        if after is not None:
            at = after_at or {entry.id: entry.created_at for entry in own}.get(after)
            own = [x for x in own if at and (x.created_at, x.id) < (at, after)]
        return own[:limit]

    async def cancel(self, tenant: str, batch: str, actor: Actor) -> StoredBatch | None:
        stored = await self.get(tenant, batch)
        if stored is None or stored.stop is not None or stored.status not in EARLY:
            return stored
        entry, now = self._entries[batch], self._clock.now()
        entry.change(stop=BatchStop.CANCELLED, cancelling_at=now, status=BatchStatus.CANCELLING)
        if stored.status is BatchStatus.VALIDATING:
            self._end(entry, BatchStatus.CANCELLED)
        self._note(actor, "batch.cancel", batch, {"tenant": tenant})
        return entry.batch

    def reads(self, tenant: str, key: str) -> str | None:
        """Id of a batch that has not ended and reads an upload."""
        active = (x.batch for x in self._entries.values() if not x.batch.status.final)
        return next((x.id for x in active if (x.tenant, x.input_key) == (tenant, key)), None)

    def shows(self, key: str, batches_of: str | None) -> bool:
        """Return whether an upload is no result of other batches than those of this API key."""
        if batches_of is None or (batch := self.files.writer(key)) is None:
            return True
        return batch in self._entries and self._entries[batch].batch.key_id == batches_of

    # Implements ``BatchWork``

    async def active(self, most: int) -> Sequence[StoredBatch]:
        batches = [x.read(self._clock) for x in self._entries.values() if not x.batch.status.final]
        return sorted(batches, key=lambda batch: (batch.created_at, batch.id))[:most]

    async def find(self, batch: str) -> StoredBatch | None:
        return self._entries[batch].read(self._clock) if batch in self._entries else None

    async def expire(self) -> None:
        for entry in self._entries.values():
            batch = entry.batch
            due = batch.expires_at <= self._clock.now() and batch.stop is None
            if due and batch.status in EARLY:
                entry.change(stop=BatchStop.EXPIRED)
                if batch.status is BatchStatus.VALIDATING:
                    self._end(entry, BatchStatus.EXPIRED)

    async def add_lines(self, batch: str, lines: Sequence[BatchLine]) -> None:
        entry = self._entries[batch]
        if entry.batch.status is BatchStatus.VALIDATING:
            for line in lines:
                entry.lines.setdefault(line.line, _Line(replace(line, request_id=None)))

    async def begin(self, batch: str, total: int) -> bool:
        entry = self._entries[batch]
        if entry.batch.status is not BatchStatus.VALIDATING:
            return False
        now = self._clock.now()
        entry.change(status=BatchStatus.IN_PROGRESS, total=total, in_progress_at=now)
        return True

    async def refuse(self, batch: str, errors: Sequence[BatchError]) -> None:
        entry = self._entries[batch]
        if entry.batch.status is BatchStatus.VALIDATING:
            entry.change(errors=tuple(errors[:MAX_ERRORS]))
            entry.lines.clear()
            self._end(entry, BatchStatus.FAILED)

    async def in_flight(self, batch: str) -> int:
        return len(self._entries[batch].of("sending", "sent"))

    async def unsent(self, batch: str, most: int) -> Sequence[BatchLine]:
        return [row.line for row in self._entries[batch].of("sending")][:most]

    async def take(self, batch: str, request_ids: Sequence[str]) -> Sequence[BatchLine]:
        entry = self._entries[batch]
        if entry.batch.status is not BatchStatus.IN_PROGRESS or entry.batch.stop is not None:
            return []
        taken = entry.of("waiting")[: len(request_ids)]
        for row, request_id in zip(taken, request_ids, strict=False):
            row.state = "sending"
            row.line = replace(row.line, request_id=row.line.request_id or request_id)
        return [taken_row.line for taken_row in taken]

    async def mark_sent(self, batch: str, lines: Sequence[int]) -> None:
        self._move(batch, lines, "sent")

    async def put_back(self, batch: str, lines: Sequence[int]) -> None:
        self._move(batch, lines, "waiting")

    async def ended_lines(self, batch: str, most: int) -> Sequence[BatchLine]:
        sent = [row.line for row in self._entries[batch].of("sent")]
        return [line for line in sent if not self._runs(line)][:most]

    async def running(self, batch: str, most: int) -> Sequence[BatchLine]:
        sent = [row.line for row in self._entries[batch].of("sent")]
        return [line for line in sent if self._runs(line)][:most]

    async def settle(self, batch: str, results: Sequence[LineResult]) -> None:
        entry = self._entries[batch]
        for result in results:
            line = entry.lines.get(result.line)
            if line is not None and line.state in ("sending", "sent"):
                self._settle(entry, line, result)

    async def drop_waiting(self, batch: str, most: int, error: Mapping[str, Any]) -> int:
        entry = self._entries[batch]
        dropped = entry.of("waiting")[:most]
        for row in dropped:
            row.line = replace(row.line, request_id=None)
            self._settle(entry, row, LineResult(row.line.line, succeeded=False, error=error))
        return len(dropped)

    async def finalize(self, batch: str) -> bool:
        entry = self._entries[batch]
        known = entry.batch
        running = known.status in (BatchStatus.IN_PROGRESS, BatchStatus.CANCELLING)
        if not running or known.completed + known.failed != known.total:
            return False
        entry.change(status=BatchStatus.FINALIZING, finalizing_at=self._clock.now())
        return True

    async def results(
        self, batch: str, *, succeeded: bool, after: int, most: int
    ) -> Sequence[EndedLine]:
        rows = self._entries[batch].of("succeeded" if succeeded else "failed")
        return [
            EndedLine(row.line.custom_id, row.line.request_id, row.result)
            for row in rows
            if row.line.line > after and row.result is not None
        ][:most]

    async def finish(self, batch: str, output_file: str | None, error_file: str | None) -> bool:
        entry = self._entries[batch]
        if entry.batch.status is not BatchStatus.FINALIZING:
            return False
        entry.change(output_file=output_file, error_file=error_file)
        entry.lines.clear()
        self._end(entry, BatchStatus(entry.batch.stop or BatchStatus.COMPLETED))
        return True

    async def forget_lines(self) -> None:
        for entry in self._entries.values():
            if entry.batch.status.final:
                entry.lines.clear()

    def _runs(self, line: BatchLine) -> bool:
        row = self._rows.get(line.request_id or "")
        return row is not None and not row.request.state.final

    def _move(self, batch: str, lines: Sequence[int], state: str) -> None:
        for number in lines:
            line = self._entries[batch].lines[number]
            if line.state == "sending":
                line.state = state

    def _settle(self, entry: _Entry, line: _Line, result: LineResult) -> None:
        line.state = "succeeded" if result.succeeded else "failed"
        line.result = result
        if result.succeeded:
            entry.change(completed=entry.batch.completed + 1)
        else:
            entry.change(failed=entry.batch.failed + 1)

    def _end(self, entry: _Entry, status: BatchStatus) -> None:
        entry.change(status=status, ended_at=self._clock.now())
        if entry.webhook is None:
            return
        batch = entry.batch
        event = f"evt_{batch.id.removeprefix('batch_')}"
        body = {
            "id": event,
            "object": "event",
            "created_at": int(self._clock.now().timestamp()),
            "type": f"batch.{batch.status}",
            "data": {"id": batch.id},
        }
        payload = {"url": entry.webhook, "about": batch.id, "body": body}
        self.jobs.put("notice", event, batch.tenant, payload)
