"""``darkroom fsck``: rows without files, and files without rows.

Both sides are read in the order of their keys and compared as they arrive, so memory is bounded.
Darkroom may run meanwhile: each difference is looked at again before it is reported.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from tempfile import TemporaryFile
from typing import IO

import psycopg

from serve_app.backup import rows
from serve_app.backup.installation import OpenInstallation, open_connection
from serve_app.backup.rows import NamedFile, named_files
from serve_app.domain.errors import ArtifactNotFound, DatabaseUnavailable, Misconfigured
from serve_app.domain.ports import Clock
from serve_app.queue.store.migrations import check_applied
from serve_app.storage.blocking import run_blocking
from serve_app.storage.keys import DamagedFile
from serve_app.storage.listing import StoredObject

AT_ONCE = 500
GRACE_S = 6 * 3600.0
"""Age from which a file without a row counts: as long as the tickets of uploads are valid."""


class Problem(StrEnum):
    MISSING = "missing"  # a row names a file that storage does not have
    DAMAGED = "damaged"  # the size, or the digest, is not the row's
    ORPHANED = "orphaned"  # no row names the file


@dataclass(frozen=True, slots=True)
class Finding:
    """A difference between rows and files."""

    problem: Problem
    key: str
    size: int | None  # of the file; of the row if the file is missing


@dataclass(slots=True)
class Totals:
    """Counts of one check."""

    files: int = 0  # that are there and that a row names
    read_bytes: int = 0  # of files whose digests were compared
    young: int = 0  # without a row, but younger than the grace
    findings: dict[Problem, int] = field(default_factory=dict)
    finding_bytes: dict[Problem, int] = field(default_factory=dict)
    mended: int = 0

    @property
    def problems(self) -> int:
        """Number of findings that were not mended."""
        return sum(self.findings.values()) - self.mended

    def add(self, finding: Finding) -> None:
        problem = finding.problem
        self.findings[problem] = self.findings.get(problem, 0) + 1
        self.finding_bytes[problem] = self.finding_bytes.get(problem, 0) + (finding.size or 0)


class Check:
    """One comparison of an installation's rows with its files."""

    def __init__(
        self,
        target: OpenInstallation,
        clock: Clock,
        *,
        grace_s: float = GRACE_S,
        checksums: bool = False,
    ) -> None:
        """``checksums``: read every file and compare its SHA-256 with the row's."""
        self._target = target
        self._checksums = checksums
        self._oldest = clock.now() - timedelta(seconds=grace_s)
        self.totals = Totals()

    async def findings(self, *, mend: bool = False) -> AsyncGenerator[Finding]:
        """All differences. With ``mend``, they are mended after the last one was yielded.

        Raises ``Misconfigured`` instead of mending if no row has its file: the storage is then
        probably not this database's.
        """
        await check_applied(self._target.database)
        with TemporaryFile("w+", encoding="utf-8") as spool:
            async for finding in self._scan():
                self.totals.add(finding)
                if mend:
                    spool.write(json.dumps([finding.problem, finding.key]) + "\n")
                yield finding
            if mend and self.totals.findings:
                self._refuse_strange_storage()
                await self._mend(spool)

    async def _scan(self) -> AsyncIterator[Finding]:
        try:
            async with open_connection(self._target.conninfo) as connection:
                async with named_files(connection) as named:
                    pairs = _merge_by_key(named.all(), self._target.storage.files())
                    async for batch in _batches(self._differences(pairs)):
                        for finding in await self._looked_at_again(batch):
                            yield finding
        except psycopg.OperationalError as error:
            raise DatabaseUnavailable(
                f"PostgreSQL was lost during the check: {str(error).strip()}. Run the command "
                "again when the server runs."
            ) from error

    async def _differences(
        self, pairs: AsyncIterator[tuple[NamedFile | None, StoredObject | None]]
    ) -> AsyncIterator[Finding]:
        async for row, file in pairs:
            if row is None and file is not None:
                if file.modified_at <= self._oldest:
                    yield Finding(Problem.ORPHANED, file.key, file.size)
                else:
                    self.totals.young += 1
            elif row is not None and file is None:
                yield Finding(Problem.MISSING, row.key, row.size)
            elif row is not None and file is not None:
                self.totals.files += 1
                if row.size not in (None, file.size) or await self._differs(row, file):
                    yield Finding(Problem.DAMAGED, file.key, file.size)

    async def _differs(self, row: NamedFile, file: StoredObject) -> bool:
        """True if a file, read as a whole, is not what was stored. Storage compares what it can;
        the rows of uploads and snapshots have no digest."""
        if not self._checksums:
            return False
        digest = hashlib.sha256()
        try:
            async for chunk in self._target.storage.read(file.key, 0, file.size):
                await run_blocking(digest.update, chunk)
        except DamagedFile:
            return True
        except ArtifactNotFound:
            return False  # deleted meanwhile
        self.totals.read_bytes += file.size
        return row.sha256 is not None and digest.hexdigest() != row.sha256

    async def _looked_at_again(self, batch: Sequence[Finding]) -> Sequence[Finding]:
        """Findings that are still true: the two sides were not read at one moment."""
        database = self._target.database
        orphaned = [candidate.key for candidate in batch if candidate.problem is Problem.ORPHANED]
        named = [candidate.key for candidate in batch if candidate.problem is not Problem.ORPHANED]
        known = await rows.expected_keys(database, orphaned) if orphaned else frozenset[str]()
        live_keys = await rows.find_named(database, named) if named else frozenset[str]()
        true: list[Finding] = []
        for finding in batch:
            if finding.problem is Problem.ORPHANED:
                keep = finding.key not in known and await self._exists(finding.key)
            elif finding.problem is Problem.MISSING:
                keep = finding.key in live_keys and not await self._exists(finding.key)
            else:
                keep = finding.key in live_keys
            if keep:
                true.append(finding)
        return true

    async def _exists(self, key: str) -> bool:
        try:
            await self._target.storage.size(key)
        except ArtifactNotFound:
            return False
        return True

    def _refuse_strange_storage(self) -> None:
        if self.totals.files == 0:
            raise Misconfigured(
                "Nothing was mended, because no file of any row was found: this storage seems to "
                "belong to another database. Check --data-dir, DARKROOM_DATABASE_URL and "
                "DARKROOM_S3_BUCKET."
            )

    async def _mend(self, spool: IO[str]) -> None:
        spool.seek(0)
        async for batch in _batches(_read(spool)):
            missing = [finding.key for finding in batch if finding.problem is Problem.MISSING]
            orphaned = [finding.key for finding in batch if finding.problem is Problem.ORPHANED]
            if missing:
                await rows.disown(self._target.database, missing)
            if orphaned:
                known = await rows.expected_keys(self._target.database, orphaned)
                await self._target.storage.delete([key for key in orphaned if key not in known])
            self.totals.mended += len(missing) + len(orphaned)


async def _read(spool: IO[str]) -> AsyncIterator[Finding]:
    for line in spool:
        problem, key = json.loads(line)
        yield Finding(Problem(problem), key, None)


async def _merge_by_key(
    named: AsyncIterator[NamedFile], files: AsyncIterator[StoredObject]
) -> AsyncIterator[tuple[NamedFile | None, StoredObject | None]]:
    """Rows and files by key; None where one side does not have it. Both come in key order."""
    row, file = await anext(named, None), await anext(files, None)
    while row is not None or file is not None:
        if file is None or (row is not None and row.key < file.key):
            yield row, None
            row = await anext(named, None)
        elif row is None or file.key < row.key:
            yield None, file
            file = await anext(files, None)
        else:
            yield row, file
            row, file = await anext(named, None), await anext(files, None)


async def _batches(findings: AsyncIterator[Finding]) -> AsyncIterator[list[Finding]]:
    batch: list[Finding] = []
    async for finding in findings:
        batch.append(finding)
        if len(batch) == AT_ONCE:
            yield batch
            batch = []
    if batch:
        yield batch
