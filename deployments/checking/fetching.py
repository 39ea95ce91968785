"""Files of weights that are registered, from their source to a folder, with their digests."""

from __future__ import annotations

import hashlib
import shutil
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deployments.transfer.fetcher import Fetcher, MinRate, fetcher_client
from serve_app.domain.endpoint import Weights
from serve_app.domain.errors import InvalidInput, WeightsUnavailable
from serve_app.domain.name_resolution import NameResolver
from weights.folder import SHA256_DIGITS, ListedFile, Listing, digest_of
from weights.hub import Hub
from weights.selection import select_lora
from weights.source import ByteRange

LOOK_BYTES = 16 * 2**20  # written between two looks at the free space
SHA256 = "0" * SHA256_DIGITS  # only selects the kind of digest

OnBytes = Callable[[int, int], None]
"""Callback with the bytes done and the total, 0 if it is not known."""


@dataclass(frozen=True, slots=True)
class FetchLimits:
    """Limits of a fetch."""

    max_bytes: int  # of all files together
    spare_bytes: int  # of the disk, which stay free
    allow_private: bool = False  # addresses of URLs
    min_bytes_per_s: int = 0  # of servers of URLs; 0: no limit
    timeout_s: float = 6 * 3600.0
    offline: bool = False


@dataclass(frozen=True, slots=True)
class FetchedFile:
    """A file with the path that its source gives it."""

    path: str
    file: Path
    size: int
    digest: str


class Room:
    """Bytes that may still be written. Shared by the files of one fetch."""

    def __init__(self, folder: Path, limits: FetchLimits) -> None:
        self._folder = folder
        self._limits = limits
        self._looked_at = 0
        self.done = 0

    def take(self, size: int) -> None:
        """Count bytes that are about to be written. ``WeightsUnavailable`` if there is no room."""
        self.done += size
        if self.done > self._limits.max_bytes:
            raise WeightsUnavailable(
                f"The files are larger than the {self._limits.max_bytes} bytes that they may have: "
                "the limit for one LoRA (DARKROOM_MAX_ADAPTER_BYTES), or what your other weights "
                "leave of your quota (DARKROOM_MAX_WEIGHTS_BYTES_PER_TENANT). Delete some."
            )
        if self.done - self._looked_at >= LOOK_BYTES or self._looked_at == 0:
            self._looked_at = self.done
            if shutil.disk_usage(self._folder).free < self._limits.spare_bytes + LOOK_BYTES:
                raise WeightsUnavailable(
                    "The server's disk is too full for more weights. Ask the operator, or try "
                    "again later."
                )


async def from_url(
    url: str, into: Path, limits: FetchLimits, room: Room, on_bytes: OnBytes
) -> FetchedFile:
    """Fetch a URL of another server. Only public addresses, and no more than the limits allow."""
    digest = hashlib.sha256()
    fetcher = Fetcher(
        fetcher_client(),
        NameResolver(),
        max_bytes=limits.max_bytes,
        timeout_s=limits.timeout_s,
        allow_private=limits.allow_private,
        offline=limits.offline,
        min_rate=MinRate(limits.min_bytes_per_s),
    )
    with into.open("wb") as file:

        def write(part: bytes) -> None:
            room.take(len(part))
            digest.update(part)
            file.write(part)
            on_bytes(room.done, 0)

        try:
            await fetcher.stream(url, "source", write)
        except InvalidInput as error:
            raise WeightsUnavailable(error.problems[0].message.capitalize() + ".") from error
        finally:
            await fetcher.aclose()
    return FetchedFile(into.name, into, room.done, digest.hexdigest())


def from_hub(hub: Hub, source: Mapping[str, Any]) -> tuple[Listing, Sequence[ListedFile]]:
    """Listing of the repository, and its files that are needed: a pipeline's weights, or a LoRA."""
    repository = str(source["hub"])
    commit = str(source.get("revision") or "main")
    if len(commit) != 40 or not commit.isalnum():
        commit = hub.commit_of(repository, commit)
    listing = hub.listing(repository, commit)
    file = source.get("file")
    if file is None and listing.index is not None:
        files = listing.select_files(Weights(repository, commit, variant=source.get("variant")))
        return listing, [entry for entry in files if entry.path.endswith(".safetensors")]
    names = {entry.path: entry for entry in listing.files}
    return listing, [names[select_lora([*names], repository, file)]]


def download(
    hub: Hub, listing: Listing, file: ListedFile, into: Path, room: Room, on_bytes: OnBytes
) -> FetchedFile:
    """Fetch a file of the hub, and compare its digest with that of the listing."""

    def grown(size: int) -> None:
        if size > 0:
            room.take(size)
        on_bytes(room.done, 0)

    with ByteRange(into, grown, threading.Event()) as part:
        hub.fetch(listing, file, part)
    digest = digest_of(into, SHA256)
    if len(file.digest) == SHA256_DIGITS and digest != file.digest:
        raise WeightsUnavailable(f"{file.path} arrived damaged: its digest differs. Add it again.")
    return FetchedFile(file.path, into, into.stat().st_size, digest)
