"""Single files of repositories, for whoever keeps them himself: of an adapter's repository one file
is wanted, whatever else is in it, and its name may be that of a branch."""

from __future__ import annotations

import re
import shutil
import threading
from pathlib import Path

from serve_app.domain.endpoint import Weights
from serve_app.domain.errors import WeightsUnavailable
from weights.digest import digest_of, known
from weights.folder import RepositoryFolder
from weights.listing import ListedFile, Listing
from weights.source import Part
from weights.store import Store

MAIN = "main"
_COMMIT = re.compile(r"[0-9a-f]{40}")


class RepositoryFiles:
    """Of the store what is in it, else of its sources. Use from any thread; every failure is
    ``WeightsUnavailable``, in a sentence."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def listing(self, repository: str, revision: str | None) -> Listing:
        """All files at ``revision``: a commit, a branch or a tag; None: the main branch."""
        commit = self._commit(repository, revision or MAIN)
        return self._store.listing(Weights(repository, commit))

    def write(self, listing: Listing, file: ListedFile, into: Path) -> None:
        """The content of ``file``, compared with its digest, to ``into``, which is empty."""
        folder = RepositoryFolder(self._store.directory, listing.repository)
        if folder.is_there(listing.revision, file) and folder.check(listing.revision, file):
            shutil.copyfile(folder.snapshot(listing.revision) / file.path, into)
            return
        trouble = WeightsUnavailable(
            f"{file.path} of {listing.repository} is not on this machine, and nothing may be "
            "fetched (DARKROOM_OFFLINE, or the hub's own HF_HUB_OFFLINE)."
        )
        for source in self._store.sources():
            try:
                with Part(into, lambda _: None, threading.Event()) as part:
                    part.clear()
                    source.fetch(listing, file, part)
            except WeightsUnavailable as error:
                trouble = error
                continue
            if not known(file.digest) or digest_of(into, file.digest) == file.digest:
                return
            trouble = WeightsUnavailable(
                f"{file.path} of {listing.repository} came with other bytes than the digest "
                f"{file.digest[:12]}… that the repository lists for it."
            )
        raise trouble

    def _commit(self, repository: str, revision: str) -> str:
        if _COMMIT.fullmatch(revision):
            return revision
        if not self._store.offline:
            return self._store.make_hub().commit_of(repository, revision)
        # As the hub's own library notes it in the same directory.
        folder = RepositoryFolder(self._store.directory, repository)
        try:
            noted = (folder.path / "refs" / revision).read_text().strip()
        except OSError:
            noted = ""
        if not _COMMIT.fullmatch(noted):
            raise WeightsUnavailable(
                f"Which commit {revision!r} of {repository} is can only be asked of the hub, and "
                "that is not allowed here (DARKROOM_OFFLINE, or the hub's own HF_HUB_OFFLINE). "
                "Name a commit that is on this machine: owner/name@commit."
            )
        return noted
