"""Bringing the files of one repository here, several at once, each checked by its digest."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextvars import copy_context

from serve_app.domain.errors import WeightsUnavailable
from weights import disk
from weights.digest import digest_of
from weights.folder import RepositoryFolder
from weights.listing import ListedFile, Listing
from weights.source import OnProgress, Part, Source, Stopped

log = logging.getLogger(__name__)

STREAMS = 4  # files at once: one connection alone seldom fills a line
TURNS = 2  # for a file that comes with other bytes than its digest says


class Fetching:
    """One download. Its caller holds the repository's lock alone."""

    def __init__(
        self,
        folder: RepositoryFolder,
        listing: Listing,
        files: Sequence[ListedFile],
        sources: Sequence[Source],
        on_progress: OnProgress | None,
    ) -> None:
        """``files``: all that are wanted, also those that are there. Without ``sources`` these are
        checked, and nothing else is done. ``on_progress`` is called by
        one thread at a time; what it raises ends the download, and what has come stays."""
        self._folder = folder
        self._listing = listing
        self._files = files
        self._sources = sources
        self._on_progress = on_progress
        self._total = sum(each.size for each in files)
        self._done = 0
        self._mutex = threading.Lock()
        self._stop = threading.Event()
        self._refusal: BaseException | None = None  # what ``on_progress`` raised

    def run(self) -> None:
        """Returns when every file is there and checked. ``WeightsUnavailable`` in a sentence."""
        revision = self._listing.revision
        self._done = self._folder.bytes_of(revision, self._files)
        wanted = [each for each in self._files if not self._folder.is_checked(revision, each)]
        if self._done < self._total:
            left = disk.gigabytes(self._total - self._done)
            log.info("Downloading %s: %s.", self._folder.repository, left)
            self._grown(0)
        with ThreadPoolExecutor(STREAMS, thread_name_prefix="weights") as threads:
            # In its caller's context: what is logged has the id of the request it is about.
            working = [threads.submit(copy_context().run, self._bring, each) for each in wanted]
            try:
                for each in as_completed(working):
                    each.result()
            except BaseException as error:
                self._stop.set()
                for each in working:
                    each.cancel()
                if self._refusal is not None:
                    raise self._refusal from None
                if isinstance(error, OSError):
                    raise disk.explain(
                        error, self._folder.path.parent, self._folder.repository
                    ) from error
                raise

    def _bring(self, file: ListedFile) -> None:
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
                f"{file.path} of {folder.repository} is damaged in {folder.path.parent}: it is not "
                "what its digest says, and nothing may be fetched. Remove it, and copy it again."
            )
        if there:
            log.warning("%s of %s is damaged: it is fetched again.", file.path, folder.repository)
            folder.discard(revision, file)
            self._grown(-file.size)
        sources = list(self._sources)
        for turn in range(TURNS):
            came_from = self._fetch(file, sources)
            if digest_of(folder.part(file), file.digest) == file.digest:
                folder.keep(revision, file)
                return
            log.warning(
                "%s of %s came with other bytes than its digest says (try %d).",
                *(file.path, folder.repository, turn + 1),
            )
            folder.part(file).unlink()
            self._grown(-file.size)
            if len(sources) > 1:
                sources.remove(came_from)
        raise WeightsUnavailable(
            f"{file.path} of {folder.repository} came {TURNS} times with other bytes than the "
            f"digest {file.digest[:12]}… that the repository lists for it. What came was thrown "
            "away. Look at the proxy or the mirror in between, and at the memory of this machine."
        )

    def _fetch(self, file: ListedFile, sources: Sequence[Source]) -> Source:
        """Into its part; by the first source that can."""
        path = self._folder.part(file)
        path.parent.mkdir(parents=True, exist_ok=True)
        trouble: WeightsUnavailable | None = None
        for source in sources:
            try:
                with Part(path, self._grown, self._stop) as part:
                    source.fetch(self._listing, file, part)
                    part.settle()
            except WeightsUnavailable as error:
                log.warning("%s", error)
                trouble = error
            except OSError as error:
                if error.errno in disk.NO_ROOM:
                    path.unlink(missing_ok=True)  # others on this disk need the room more
                raise
            else:
                return source
        raise trouble or WeightsUnavailable(f"Nothing gives {self._folder.repository}.")

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
