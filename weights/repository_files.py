"""Single files of repositories, for callers that store them on their own. A LoRA's repository needs
only one file, whatever else it contains, and its revision may be a branch."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

from serve_app.domain.endpoint import Weights
from serve_app.domain.errors import WeightsUnavailable
from weights.folder import ListedFile, Listing, RepositoryFolder, digest_of, is_supported_digest
from weights.source import ByteRange
from weights.store import MAIN, Store


class RepositoryFiles:
    """Files from the store, or else from its sources. Thread-safe. Every error is
    ``WeightsUnavailable``, with a message for the user."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def listing(self, repository: str, revision: str | None) -> Listing:
        """All files at ``revision``: a commit, a branch or a tag. None: the main branch."""
        commit = self._store.commit_of(repository, revision or MAIN)
        return self._store.listing(Weights(repository, commit))

    def write(self, listing: Listing, file: ListedFile, into: Path) -> None:
        """Write the content of ``file``, verified by its digest, to the empty file ``into``."""
        folder = RepositoryFolder(self._store.directory, listing.repository)
        if folder.is_there(listing.revision, file) and folder.check(listing.revision, file):
            shutil.copyfile(folder.snapshot(listing.revision) / file.path, into)
            return
        trouble = WeightsUnavailable(
            f"{file.path} of {listing.repository} is not on this machine, and downloads are "
            "disabled (DARKROOM_OFFLINE, or the hub's own HF_HUB_OFFLINE)."
        )
        for source in self._store.sources():
            try:
                with ByteRange(into, lambda _: None, threading.Event()) as part:
                    part.clear()
                    source.fetch(listing, file, part)
            except WeightsUnavailable as error:
                trouble = error
                continue
            if not is_supported_digest(file.digest) or digest_of(into, file.digest) == file.digest:
                return
            trouble = WeightsUnavailable(
                f"{file.path} of {listing.repository} was downloaded and does not match the "
                f"digest {file.digest[:12]}… that the repository lists for it."
            )
        raise trouble
