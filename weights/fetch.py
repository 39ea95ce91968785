"""Download of a repository's files: several at a time, each checked by its digest."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextvars import copy_context
from dataclasses import dataclass
from pathlib import Path

from serve_app.domain.errors import WeightsUnavailable
from weights import eviction
from weights.folder import ListedFile, Listing, RepositoryFolder, digest_of
from weights.source import ByteRange, NotOffered, OnProgress, Source, Stopped

log = logging.getLogger(__name__)

STREAMS = 4  # files at a time: a single connection seldom uses the whole bandwidth
TURNS = 2  # tries for a file whose content does not match its digest


class Fetching:
    """One download. The caller holds the repository's exclusive lock."""

    def __init__(
        self,
        folder: RepositoryFolder,
        listing: Listing,
        files: Sequence[ListedFile],
        sources: Sequence[Source],
        on_progress: OnProgress | None,
    ) -> None:
        """``files``: all files that are needed, including those already present. Without
        ``sources`` they are only checked. ``on_progress`` is called by one thread at a time; if it
        raises, the download ends, and the files fetched so far are kept."""
        self._folder = folder
        self._listing = listing
        self._files = files
        self._sources = sources
        self._on_progress = on_progress
        self._total = sum(file.size for file in files)
        self._done = 0
        self._mutex = threading.Lock()
        self._stop = threading.Event()
        self._refusal: BaseException | None = None  # exception of ``on_progress``

    def run(self) -> None:
        """Download everything. Returns when every file is present and checked. Raises
        ``WeightsUnavailable`` with a message for the user."""
        revision = self._listing.revision
        self._done = self._folder.bytes_of(revision, self._files)
        unchecked = [file for file in self._files if not self._folder.is_checked(revision, file)]
        if self._done < self._total:
            left = eviction.gigabytes(self._total - self._done)
            log.info("Downloading %s: %s.", self._folder.repository, left)
            self._grown(0)
        with ThreadPoolExecutor(STREAMS, thread_name_prefix="weights") as threads:
            # In the caller's context, so that log lines have the id of its request.
            working = [
                threads.submit(copy_context().run, self._provide_equal, group)
                for group in _by_content(unchecked)
            ]
            try:
                for future in as_completed(working):
                    future.result()
            except BaseException as error:
                self._stop.set()
                for future in working:
                    future.cancel()
                if self._refusal is not None:
                    raise self._refusal from None
                if isinstance(error, OSError):
                    raise eviction.explain(
                        error, self._folder.path.parent, self._folder.repository
                    ) from error
                raise

    def _provide_equal(self, files: Sequence[ListedFile]) -> None:
        """Provide files of equal content one after the other: they share a part and a blob, so the
        first is downloaded, and the others are links to it."""
        for file in files:
            self._provide(file)

    def _provide(self, file: ListedFile) -> None:
        folder, revision = self._folder, self._listing.revision
        if self._stop.is_set():
            raise Stopped
        there = folder.is_there(revision, file)
        if not there and folder.adopt(revision, file):
            there = True
            self._grown(file.size)
        if there and folder.check(revision, file):
            folder.note_checked(revision, file)
            return
        if not self._sources:
            raise WeightsUnavailable(
                f"{file.path} of {folder.repository} is damaged in {folder.path.parent}: it does "
                "not match its digest, and downloads are disabled. Remove it, and copy it again."
            )
        if there:
            log.warning("%s of %s is damaged; downloading it again.", file.path, folder.repository)
            folder.discard(revision, file)
            self._grown(-file.size)
        sources = list(self._sources)
        for turn in range(TURNS):
            came_from = self._fetch(file, sources)
            if digest_of(folder.part(file), file.digest) == file.digest:
                folder.keep(revision, file)
                return
            log.warning(
                "%s of %s does not match its digest after the download (try %d).",
                file.path,
                folder.repository,
                turn + 1,
            )
            folder.part(file).unlink()
            self._grown(-file.size)
            if len(sources) > 1:
                sources.remove(came_from)
        raise WeightsUnavailable(
            f"{file.path} of {folder.repository} was downloaded {TURNS} times and never matched "
            f"the digest {file.digest[:12]}… that the repository lists for it. The file was "
            "discarded. Check the proxy or the mirror in between, and the memory of this machine."
        )

    def _fetch(self, file: ListedFile, sources: Sequence[Source]) -> Source:
        """Download a file to its part file, from the first source that succeeds."""
        path = self._folder.part(file)
        path.parent.mkdir(parents=True, exist_ok=True)
        trouble: WeightsUnavailable | None = None
        for source in sources:
            try:
                with ByteRange(path, self._grown, self._stop) as part:
                    source.fetch(self._listing, file, part)
                    part.settle()
            except NotOffered as error:
                trouble = error
            except WeightsUnavailable as error:
                log.warning("%s", error)
                trouble = error
            except OSError as error:
                if error.errno in eviction.DISK_FULL_ERRNOS:
                    path.unlink(missing_ok=True)  # other programs on this disk need the space
                raise
            else:
                return source
        raise trouble or WeightsUnavailable(f"No source has {self._folder.repository}.")

    def _grown(self, by: int) -> None:
        with self._mutex:
            self._done += by
            if self._on_progress is None or self._refusal is not None:
                return
            try:
                self._on_progress(min(self._done, self._total), self._total)
            except BaseException as error:
                self._refusal = error
                self._stop.set()
                raise Stopped from error


def _by_content(files: Sequence[ListedFile]) -> list[list[ListedFile]]:
    """Files grouped by digest, in their order. One whose digest is unknown is alone."""
    groups: dict[str, list[ListedFile]] = {}
    for file in files:
        groups.setdefault(file.digest or f"/{file.path}", []).append(file)
    return list(groups.values())


# Plan of a download.


@dataclass(frozen=True, slots=True)
class PlannedFile:
    """A file that a pipeline needs."""

    path: str
    size: int  # bytes
    digest: str  # SHA-256, or the id of a git blob; empty: unknown
    there_bytes: int  # bytes already on this machine


@dataclass(frozen=True, slots=True)
class FetchPlan:
    """Snapshot of the state on disk, which other downloads may change."""

    repository: str
    revision: str
    directory: Path  # of the store
    files: tuple[PlannedFile, ...]
    free_bytes: int  # on the disk of ``directory``

    @property
    def total_bytes(self) -> int:
        return sum(file.size for file in self.files)

    @property
    def missing(self) -> tuple[PlannedFile, ...]:
        return tuple(file for file in self.files if file.there_bytes < file.size or not file.size)

    @property
    def missing_bytes(self) -> int:
        return sum(file.size - file.there_bytes for file in self.files)
