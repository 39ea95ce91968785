"""Weights of this node: the files present, and the download of missing ones.

If several replicas of a node, and `darkroom models pull`, need a repository, one of them downloads
it and the others wait. Files are verified by their digest before they are loaded. Interrupted
downloads are resumed.
"""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from pathlib import Path
from random import SystemRandom
from typing import Any

from huggingface_hub import constants

from serve_app.domain.endpoint import Endpoint, StoreConfig, Weights, WeightsPart
from serve_app.domain.errors import Misconfigured, WeightsUnavailable
from weights import eviction
from weights.derived import DerivedFiles
from weights.fetch import Fetching, FetchPlan, PlannedFile
from weights.folder import (
    COMMIT,
    ListedFile,
    Listing,
    RepositoryFolder,
    default_directory,
    repositories,
)
from weights.hub import Hub
from weights.lock import RepositoryLock
from weights.mirror import Mirror
from weights.parts import compose_folder, repository_of
from weights.registered import LocateFile, RegisteredFiles
from weights.selection import LORA_FILE
from weights.source import OnProgress, Source

log = logging.getLogger(__name__)

MAIN = "main"

NAMED_FILES = 5  # in a message
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


def is_of_hub(weights: Weights) -> bool:
    """True if ``weights`` are a repository of the hub, not a directory."""
    return _HUB_NAME.fullmatch(weights.source) is not None and not Path(weights.source).is_dir()


def repositories_of(endpoint: Endpoint) -> tuple[Weights, ...]:
    """Repositories that an endpoint needs, each once: its weights, their checkpoint and parts, and
    LoRAs of its options."""
    sources = [endpoint.weights] if is_of_hub(endpoint.weights) else []
    if (checkpoint := checkpoint_of(endpoint.weights)) is not None:
        sources.append(checkpoint)
    sources += [
        repository
        for repository in map(repository_of, endpoint.weights.parts)
        if is_of_hub(repository)
    ]
    if (merged := lora_of(endpoint)) is not None:
        sources.append(merged)
    return tuple(dict.fromkeys([*sources, *adapters_of(endpoint)]))


def checkpoint_of(weights: Weights) -> Weights | None:
    """Repository with the one file that replaces components of ``weights``. None if there is no
    such file, or if it is on the node."""
    if not weights.checkpoint or Path(weights.checkpoint).is_absolute():
        return None
    place, _, revision = weights.checkpoint.rpartition("@")
    owner, name, file = place.split("/", 2)
    return Weights(f"{owner}/{name}", revision, files=(file,))


def adapters_of(endpoint: Endpoint) -> tuple[Weights, ...]:
    """Repositories of the endpoint's ``adapters``, each once, with the files that are needed."""
    files: dict[tuple[str, str | None], list[str]] = {}
    for adapter in endpoint.options.get("adapters") or ():
        if (lora := _lora_of(adapter)) is not None:
            names = files.setdefault((lora.source, lora.revision), [])
            names.append(str(adapter.get("file", LORA_FILE)))
    return tuple(
        Weights(source, revision, files=tuple(dict.fromkeys(names)))
        for (source, revision), names in files.items()
    )


def lora_of(endpoint: Endpoint) -> Weights | None:
    """Repository of the LoRA that is merged into the endpoint's weights, if there is one."""
    return _lora_of(endpoint.options.get("adapter"))


def _lora_of(lora: Any) -> Weights | None:
    match lora:
        case {"hub": str(source), **others} if "directory" not in others:
            return Weights(source, others.get("revision"))
        case _:
            return None


FindPeers = Callable[[str, str], Source]
"""Other nodes that have a repository at a commit, or may have it soon, as one source."""


class Store:
    """Store of weights. Thread-safe; has no state but its settings. Every error is
    ``WeightsUnavailable`` or ``Misconfigured``, with a message for the user."""

    def __init__(
        self,
        config: StoreConfig,
        make_hub: Callable[[], Hub] = Hub,
        find_peers: FindPeers | None = None,
        locate: LocateFile | None = None,
    ) -> None:
        """``find_peers``: asked before the mirror and the hub. None: no other node is asked.
        ``locate``: finds registered files. None: only those on this node are used."""
        self._locate = locate
        self._config = config
        self.make_hub = make_hub
        self._find_peers = find_peers

    @property
    def directory(self) -> Path:
        return self._config.directory or default_directory()

    @property
    def offline(self) -> bool:
        """True by our setting, or by the hub's own (HF_HUB_OFFLINE)."""
        return self._config.offline or constants.is_offline_mode()

    def derived_files(self) -> DerivedFiles:
        """Files that are computed from weights, within what the store's limit leaves."""
        directory = self.directory
        return DerivedFiles(
            directory,
            lambda: eviction.derived_limit(directory, self._config.max_bytes),
            lambda folder: eviction.free_bytes(folder) - eviction.SPARE_BYTES,
        )

    def registered_files(self) -> RegisteredFiles:
        """Files that tenants have registered, on this node."""
        return RegisteredFiles(self.directory, self._locate)

    def compose_folder(
        self, base: Path, weights: Weights, places: Mapping[WeightsPart, Path]
    ) -> Path:
        """Folder of the pipeline ``base`` with parts of weights; see ``parts.compose_folder``."""
        return compose_folder(self.directory, base, weights, places)

    def plan(self, weights: Weights) -> FetchPlan:
        """Plan a download. Queries the sources if needed, writes nothing."""
        folder = self._shared_folder(weights) or self._folder(weights)
        listing, _ = self._listing(weights, folder, self.sources())
        files = tuple(
            PlannedFile(
                file.path, file.size, file.digest, folder.bytes_of(listing.revision, [file])
            )
            for file in listing.select_files(weights)
        )
        free = eviction.free_bytes(self.directory)
        return FetchPlan(weights.source, listing.revision, self.directory, files, free)

    @contextlib.contextmanager
    def open(self, weights: Weights, on_progress: OnProgress | None = None) -> Generator[Path]:
        """Directory with the weights, downloaded if needed. They are not evicted while it is open.

        ``on_progress`` receives the bytes done and the total, also while another process downloads
        them, but not if everything is present. It is called on other threads, one at a time. If it
        raises, the download ends, and what was received is kept for the next one.
        """
        folder = self._folder(weights)
        if (
            not self._is_own(weights, folder)
            and (shared := self._shared_folder(weights)) is not None
        ):
            yield shared.snapshot(_revision(weights))
            return
        lock = RepositoryLock(folder.lock_path)
        try:
            if self._can_lock(folder, lock):
                try:
                    self._ensure_ready(weights, folder, lock, on_progress)
                except OSError as error:
                    raise eviction.explain(error, self.directory, weights.source) from error
            else:
                self._refuse_incomplete(weights, folder)
            yield folder.snapshot(_revision(weights))
        finally:
            lock.release()

    def listing(self, weights: Weights) -> Listing:
        """All files of the repository. Queries the sources if needed, writes nothing."""
        return self._listing(weights, self._folder(weights), self.sources())[0]

    def sources(self) -> list[Source]:
        """Mirror and hub, in order of preference. Empty if downloads are disabled."""
        if self.offline:
            return []
        mirrors: list[Source] = [Mirror(self._config)] if self._config.mirror else []
        return [*mirrors, self.make_hub()]

    def commit_of(
        self, repository: str, revision: str = MAIN, *, or_only_here: bool = False
    ) -> str:
        """The commit that a branch or tag of a repository is now, by the hub. If downloads are
        disabled, the one that the hub's own library has noted, or with ``or_only_here`` the only
        one on this machine."""
        if COMMIT.fullmatch(revision):
            return revision
        if not self.offline:
            return self.make_hub().commit_of(repository, revision)
        folder = RepositoryFolder(self.directory, repository)
        if (noted := folder.commit_of(revision)) is not None:
            return noted
        here = folder.commits()
        if or_only_here and len(here) == 1:
            return here[0]
        known = f" On this machine: {', '.join(here)}." if here else ""
        raise WeightsUnavailable(
            f"Only the hub can say which commit {revision!r} of {repository} is, and downloads are "
            "disabled (DARKROOM_OFFLINE, or the hub's own HF_HUB_OFFLINE). Name a commit that is "
            f"on this machine: owner/name@commit.{known}"
        )

    def is_here(self, weights: Weights) -> bool:
        """True if ``open`` would download nothing."""
        return (
            self._is_own(weights, self._folder(weights)) or self._shared_folder(weights) is not None
        )

    def verify(self, repository: str | None = None) -> Iterator[tuple[str, str, bool]]:
        """Read every stored file again. Yields repository, path, and True if its digest is right.
        A damaged file is downloaded again when it is needed next."""
        for path in repositories(self.directory):
            folder = RepositoryFolder(self.directory, eviction.repository_of(path))
            if repository in (None, folder.repository):
                yield from self._verify(folder)

    def push(self, weights: Weights, on_progress: OnProgress | None = None) -> int:
        """Fill the mirror from the stored files; returns the number of bytes sent."""
        if not self._config.mirror:
            raise Misconfigured("There is no mirror: set DARKROOM_WEIGHTS_MIRROR.")
        with self.open(weights) as snapshot:
            folder = self._folder(weights)
            if snapshot != folder.snapshot(_revision(weights)):
                folder = self._shared_folder(weights) or folder
            listing = folder.listing(_revision(weights))
            if listing is None:
                raise WeightsUnavailable(
                    f"{weights.source} is on this machine, but its digests are not known: run "
                    "`darkroom models pull` where the hub can be reached."
                )
            files = listing.select_files(weights)
            return Mirror(self._config).push(listing, files, snapshot, on_progress)

    def _folder(self, weights: Weights) -> RepositoryFolder:
        _revision(weights)
        return RepositoryFolder(self.directory, weights.source)

    def _is_own(self, weights: Weights, folder: RepositoryFolder) -> bool:
        """True if everything is in the store's own directory, and verified."""
        listing = folder.listing(_revision(weights))
        return listing is not None and _is_ready(folder, listing, weights)

    def _shared_folder(self, weights: Weights) -> RepositoryFolder | None:
        """Folder of the shared directory, if it has everything. None otherwise.

        Only with a listing of our own: then each file was verified before it got its name. Another
        program's folder may be half filled, and nothing would tell.
        """
        if self._config.shared_directory is None:
            return None
        folder = RepositoryFolder(self._config.shared_directory, weights.source)
        listing = folder.listing(_revision(weights))
        if listing is None:
            return None
        files = listing.select_files(weights)
        complete = all(folder.is_there(listing.revision, file) for file in files)
        return folder if complete else None

    def _sources_of(self, weights: Weights) -> list[Source]:
        """All sources of one repository, in order of preference."""
        if self._find_peers is None or self.offline:
            return self.sources()
        return [self._find_peers(weights.source, _revision(weights)), *self.sources()]

    def _can_lock(self, folder: RepositoryFolder, lock: RepositoryLock) -> bool:
        """False if the directory is read-only (such as a mounted volume), or if nothing is present
        and downloads are disabled."""
        if self.offline and not folder.path.is_dir():
            return False
        try:
            lock.open()
        except OSError as error:
            if folder.path.is_dir():
                return False
            raise WeightsUnavailable(
                f"The directory of the weights, {self.directory}, cannot be written "
                f"({error.strerror}), and {folder.repository} is not in it. Change its owner, or "
                "choose another (DARKROOM_WEIGHTS_DIR)."
            ) from error
        return True

    def _ensure_ready(
        self,
        weights: Weights,
        folder: RepositoryFolder,
        lock: RepositoryLock,
        on_progress: OnProgress | None,
    ) -> None:
        """Return with the shared lock held, and everything present and verified."""
        on_wait = self._lock_progress(weights, folder, on_progress)
        lock.share(on_wait)
        listing = folder.listing(_revision(weights))
        while listing is None or not _is_ready(folder, listing, weights):
            lock.take(on_wait)
            listing = self._make_ready(weights, folder, on_progress)
            lock.share(on_wait)  # not atomic: another process may have evicted it, hence the loop
        folder.touch()

    def _make_ready(
        self, weights: Weights, folder: RepositoryFolder, on_progress: OnProgress | None
    ) -> Listing:
        sources = self._sources_of(weights)
        listing, answered = self._listing(weights, folder, sources)
        files = listing.select_files(weights)
        if self.offline or not answered:
            self._refuse_missing(folder, listing, files)
            Fetching(folder, listing, files, (), on_progress).run()
            return listing
        if self._find_peers is not None:
            # Nodes that start together then have different files, which they send each other.
            files = tuple(SystemRandom().sample(files, len(files)))
        folder.keep_listing(listing)
        eviction.make_room(self.directory, folder, listing, files, self._config.max_bytes)
        missing = folder.missing_bytes(listing.revision, files)
        eviction.check_room(self.directory, weights.source, missing)
        Fetching(folder, listing, files, sources, on_progress).run()
        eviction.end_reservation(folder)
        return listing

    def _listing(
        self, weights: Weights, folder: RepositoryFolder, sources: Sequence[Source]
    ) -> tuple[Listing, bool]:
        """Listing, and True if it comes from a source; False if it was derived from the disk."""
        revision = _revision(weights)
        known = folder.listing(revision)
        if known is not None:
            return known, True
        trouble = _absent(weights, self.directory)
        for source in sources:
            try:
                listing = source.listing(weights.source, revision)
            except WeightsUnavailable as error:
                trouble = error
            else:
                if listing is not None:
                    return listing, True
        on_disk = folder.listing_from_disk(revision)
        if on_disk is None:
            raise trouble
        if not self.offline:
            log.warning("%s The files that are present are used as they are.", trouble.message)
        return on_disk, False

    def _refuse_incomplete(self, weights: Weights, folder: RepositoryFolder) -> None:
        """Check a read-only directory, which is used as it is or not at all."""
        revision = _revision(weights)
        listing = folder.listing(revision) or folder.listing_from_disk(revision)
        if listing is None:
            raise _absent(weights, self.directory)
        self._refuse_missing(folder, listing, listing.select_files(weights))

    def _refuse_missing(
        self, folder: RepositoryFolder, listing: Listing, files: Sequence[ListedFile]
    ) -> None:
        missing = [file.path for file in files if not folder.is_there(listing.revision, file)]
        if missing:
            raise WeightsUnavailable(
                f"{folder.repository} is not complete in {self.directory}: {_paths_text(missing)} "
                f"missing. {_copy_instructions(folder.path.name)}"
            )

    def _lock_progress(
        self, weights: Weights, folder: RepositoryFolder, on_progress: OnProgress | None
    ) -> Callable[[], None]:
        """Callback that reports progress while another process holds the lock."""

        def report() -> None:
            listing = folder.listing(_revision(weights))
            if on_progress is None or listing is None:
                return
            files = listing.select_files(weights)
            on_progress(folder.bytes_of(listing.revision, files), sum(f.size for f in files))

        return report

    def _verify(self, folder: RepositoryFolder) -> Iterator[tuple[str, str, bool]]:
        lock = RepositoryLock(folder.lock_path)
        try:
            # A read-only volume allows neither locks nor deletion.
            with contextlib.suppress(OSError):
                lock.take()
            for listing in folder.listings():
                for file in listing.files:
                    if folder.is_there(listing.revision, file):
                        right = folder.check(listing.revision, file)
                        if not right:
                            with contextlib.suppress(OSError):
                                folder.discard(listing.revision, file)
                        yield folder.repository, file.path, right
        finally:
            lock.release()


def _is_ready(folder: RepositoryFolder, listing: Listing, weights: Weights) -> bool:
    files = listing.select_files(weights)
    return all(folder.is_checked(listing.revision, file) for file in files)


def _revision(weights: Weights) -> str:
    """Full commit hash of the weights. ``Misconfigured`` without one: a branch can change under a
    running installation, and every result with it."""
    revision = weights.revision or ""
    if not COMMIT.fullmatch(revision):
        raise Misconfigured(
            f"The weights {weights.source} need a revision: the full commit hash, 40 hexadecimal "
            f"digits, as the hub's page of commits shows it. Found: {weights.revision!r}."
        )
    return revision


def _absent(weights: Weights, directory: Path) -> WeightsUnavailable:
    name = RepositoryFolder(directory, weights.source).path.name
    return WeightsUnavailable(
        f"{weights.source} is not in {directory}, and downloads are disabled (DARKROOM_OFFLINE, or "
        f"the hub's own HF_HUB_OFFLINE). {_copy_instructions(name)}"
    )


def _copy_instructions(folder: str) -> str:
    return (
        "Run `darkroom models pull` on a machine that reaches the hub, and copy the directory "
        f"{folder} from its store to here, with its links (cp -a, rsync -a, tar)."
    )


def _paths_text(paths: Sequence[str]) -> str:
    shown = ", ".join(paths[:NAMED_FILES])
    if len(paths) > NAMED_FILES:
        return f"{shown} and {len(paths) - NAMED_FILES} more are"
    return f"{shown} is" if len(paths) == 1 else f"{shown} are"
