"""Files that tenants have registered, on this node, and pipelines in which they replace files of
their base.

They lie beside the repositories:

    .darkroom-registered/files/<SHA-256>.safetensors    each file once, however many use it
    .darkroom-registered/folders/<digest>/…             links to them and to the files of the base
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import httpx2

from serve_app.domain.endpoint import Endpoint
from serve_app.domain.errors import DarkroomError, StorageUnavailable, WeightsUnavailable
from serve_app.domain.lora import REPLACED
from serve_app.domain.safetensors import read_header
from weights import eviction
from weights.links import files_in, folder_for, is_whole, write_folder
from weights.source import OnProgress

log = logging.getLogger(__name__)

FOLDER = ".darkroom-registered"
SUFFIX = ".safetensors"
INDEX = ".safetensors.index.json"
TIMEOUT_S = 60.0  # without a byte
PAUSES_S = 1.0, 2.0, 4.0  # between tries: our own storage may restart
_MAY_PASS = frozenset({408, 425, 429, 500, 502, 503, 504})  # replies of our storage

LocateFile = Callable[[str], str]
"""URL of the file with a SHA-256; empty if there is none."""
Replaced = Mapping[str, Mapping[str, str]]
"""Component → name of a file → SHA-256."""


def replaced_of(endpoint: Endpoint) -> Replaced:
    """Registered files that replace files of the endpoint's weights."""
    return cast("Replaced", endpoint.options.get(REPLACED) or {})


def registered_of(endpoint: Endpoint) -> tuple[str, ...]:
    """SHA-256 of all registered files that the endpoint needs, each once."""
    digests = [digest for files in replaced_of(endpoint).values() for digest in files.values()]
    adapters = cast("Iterable[Any]", endpoint.options.get("adapters") or ())
    entries = (
        cast("Mapping[str, Any]", adapter) for adapter in adapters if isinstance(adapter, Mapping)
    )
    digests += [str(adapter["registered"]) for adapter in entries if "registered" in adapter]
    return tuple(dict.fromkeys(digests))


class RegisteredFiles:
    """Registered files of this node. For several threads and processes. Every error is
    ``WeightsUnavailable``, with a message for the user, or ``StorageUnavailable`` while our own
    storage or the ingress does not answer."""

    def __init__(
        self,
        directory: Path,
        locate: LocateFile | None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """``directory``: of the store. ``locate``: None where no ingress can be asked."""
        self._sleep = sleep
        self._files = directory / FOLDER / "files"
        self._folders = directory / FOLDER / "folders"
        self._locate = locate

    def find(self, digest: str) -> Path | None:
        """Path of a file, which counts as used now. None if it is not on this node."""
        path = self._files / f"{digest}{SUFFIX}"
        if not path.is_file():
            return None
        with contextlib.suppress(OSError):
            # Keep the modification time: the engine uses it to detect that a file has changed.
            os.utime(path, ns=(time.time_ns(), path.stat().st_mtime_ns))
        return path

    def fetch(self, digest: str, on_progress: OnProgress | None = None) -> Path:
        """Path of a file, which is downloaded if needed and compared with its digest."""
        try:
            self._files.mkdir(parents=True, exist_ok=True)
            with _hold_lock(self._files / f"{digest}.lock"):
                return self.find(digest) or self._download(digest, on_progress)
        except OSError as error:
            raise eviction.explain(error, self._files, "Registered weights") from error

    def compose_folder(self, base: Path, replaced: Replaced) -> Path:
        """Folder of the pipeline ``base`` with other files for some components. Everything in it
        are links, so equal files are on the disk once."""
        text = json.dumps([str(base.resolve()), replaced], sort_keys=True)
        folder = folder_for(self._folders, text)
        digests = {file_digest for files in replaced.values() for file_digest in files.values()}
        fetched = {digest: self.fetch(digest) for digest in digests}
        if is_whole(folder):
            return folder
        links = {
            path: file
            for path, file in files_in(base).items()
            if not (path.partition("/")[0] in replaced and _is_weights(file.name))
        }
        texts: dict[str, str] = {}
        for component, files in replaced.items():
            own = {name: fetched[digest] for name, digest in files.items()}
            links |= {f"{component}/{name}": file for name, file in own.items()}
            if len(own) > 1:
                texts |= {f"{component}/{name}": text for name, text in _index_of(own)}
        write_folder(folder, links, texts)
        return folder

    def _download(self, digest: str, on_progress: OnProgress | None) -> Path:
        url = self._url_of(digest)
        if not url:
            raise WeightsUnavailable(
                f"The registered file {digest[:12]}… does not exist any more. Register it again."
            )
        for pause_s in (*PAUSES_S, None):
            try:
                return self._receive_file(digest, url, on_progress)
            except httpx2.HTTPError as error:
                if not _may_pass(error):
                    raise WeightsUnavailable(
                        f"The registered file {digest[:12]}… cannot be read from storage: {error}."
                    ) from error
                log.warning("Storage did not send the registered file %s: %r", digest[:12], error)
                if pause_s is None:
                    raise StorageUnavailable(
                        f"Storage did not send the registered file {digest[:12]}… in "
                        f"{len(PAUSES_S) + 1} tries. Try again later."
                    ) from error
                self._sleep(pause_s)
        raise AssertionError

    def _url_of(self, digest: str) -> str:
        """URL of a file; empty if there is none."""
        try:
            return self._locate(digest) if self._locate else ""
        except Exception as error:  # a timeout, or Ray's while an ingress restarts
            if isinstance(error, DarkroomError) and not error.retryable:
                raise
            log.warning("The ingress did not locate a registered file: %r", error)
            raise StorageUnavailable(
                f"The ingress did not say where the registered file {digest[:12]}… is. Try again "
                "later."
            ) from error

    def _receive_file(self, digest: str, url: str, on_progress: OnProgress | None) -> Path:
        part = self._files / f"{digest}.part"
        state = hashlib.sha256()
        try:
            with (
                # Our own storage: no proxy of the environment leads there.
                httpx2.Client(trust_env=False, timeout=TIMEOUT_S, follow_redirects=True) as client,
                client.stream("GET", url) as response,
                part.open("wb") as file,
            ):
                response.raise_for_status()
                total = int(response.headers.get("content-length", 0))
                self._make_room(total)
                for chunk in response.iter_bytes():
                    state.update(chunk)
                    file.write(chunk)
                    if on_progress is not None:
                        on_progress(file.tell(), total)
                file.flush()
                os.fsync(file.fileno())
            if state.hexdigest() != digest:
                raise WeightsUnavailable(
                    f"The registered file {digest[:12]}… is damaged in storage. Register it again."
                )
            path = self._files / f"{digest}{SUFFIX}"
            part.replace(path)
            return path
        finally:
            part.unlink(missing_ok=True)

    def _make_room(self, size: int) -> None:
        """Remove the longest unused files while the disk has too little space for ``size`` more."""
        there = sorted(self._files.glob(f"*{SUFFIX}"), key=lambda path: path.stat().st_atime_ns)
        for path in there:
            if eviction.free_bytes(self._files) >= size + eviction.SPARE_BYTES:
                return
            path.unlink(missing_ok=True)
        eviction.check_room(self._files, "Registered weights", size)


@contextlib.contextmanager
def _hold_lock(path: Path) -> Generator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _may_pass(error: httpx2.HTTPError) -> bool:
    """True if another try may succeed."""
    if isinstance(error, httpx2.HTTPStatusError):
        return error.response.status_code in _MAY_PASS
    return isinstance(error, httpx2.TransportError)


def _is_weights(name: str) -> bool:
    return name.endswith(SUFFIX) or ".safetensors.index" in name


def _index_of(files: Mapping[str, Path]) -> Iterator[tuple[str, str]]:
    """Name and text of the index that diffusers and transformers read with several files."""
    weight_map = {
        name: file for file in sorted(files) for name in read_header(files[file], file).tensors
    }
    stem = next(iter(files)).partition("-")[0]
    yield f"{stem}{INDEX}", json.dumps({"metadata": {}, "weight_map": weight_map})
