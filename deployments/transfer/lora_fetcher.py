"""LoRAs that inputs name: one download of each file, and the use of it by an attempt.

Importing this module does not import torch.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

from deployments.engine.threads import Threads
from deployments.transfer.fetcher import Fetcher, OwnFiles, Version, may_be_private
from deployments.transfer.lora_cache import CachedFile, LoraCache
from deployments.transfer.uploader import StorageRetry
from serve_app.domain.errors import DarkroomError, InvalidInput, LoraRefused, WeightsUnavailable
from serve_app.domain.lora import FileUrl, HubFile, LoraSource, RegisteredFile
from serve_app.domain.media.data_uri import is_data_uri
from serve_app.domain.ports import Clock
from weights.folder import SHA256_DIGITS, digest_of
from weights.repository_files import RepositoryFiles
from weights.selection import select_lora

if TYPE_CHECKING:
    from deployments.engine.lora.format import Lora

log = logging.getLogger(__name__)

FIELD = "loras"
"""Field of inputs that names LoRAs."""


@dataclass(frozen=True, slots=True)
class RequestedLora:
    """One LoRA of an input."""

    field: str  # of the input: the field that names the file
    source: LoraSource
    scale: float


T = TypeVar("T")

Locate = Callable[[str], Awaitable[str]]
"""URL of the registered file with a SHA-256; empty if there is none."""

REVALIDATE_S = 60.0
"""Time for which a name is assumed to mean the same file, without asking the server again."""

LOCATE_S = 30.0  # for a call to the ingress
MAX_REMEMBERED = 1024  # names
THREADS = 4  # for reading, writing and waiting for the hub
LOOK_BYTES = 16 * 2**20  # written between two checks of the free disk space
HEADER_BYTES = 8  # at the start of a safetensors file: the size of the JSON that follows


@dataclass(frozen=True, slots=True)
class FetchedLora:
    """A LoRA that an input names, as a file on this node."""

    requested: RequestedLora
    file: Path


@dataclass(frozen=True, slots=True)
class _CacheEntry:
    """The file that a name meant at the last download."""

    key: str  # of the cached file
    version: Version
    at: float  # monotonic clock, s


@dataclass(frozen=True, slots=True)
class _Name:
    """Name of a file, as the requests of a scope use it."""

    source: LoraSource
    scope: str

    @classmethod
    def of(cls, source: LoraSource, scope: str, tenant: str) -> _Name:
        """See ``LoraFetcher.acquire``."""
        private = isinstance(source, FileUrl) and may_be_private(source.url)
        return cls(source, scope or (tenant if private else ""))

    def key_of(self, digest: str) -> str:
        """Cache key of a file: in a folder of the scope, whose name says nothing."""
        if not self.scope:
            return digest
        return f"{hashlib.sha256(self.scope.encode()).hexdigest()[:16]}/{digest}"


class LoraFetcher:
    """Downloader of LoRA files. Use it on one event loop. Call ``aclose`` after the last fetch."""

    def __init__(
        self,
        web: Fetcher,
        hub: RepositoryFiles,
        cache: LoraCache,
        clock: Clock,
        max_bytes: int,
        locate: Locate | None = None,
    ) -> None:
        """``max_bytes`` limits files of the hub; ``web`` must enforce the same limit itself.
        ``locate``: finds registered weights; None: there are none."""
        self._locate = locate
        self._web = web
        self._hub = hub
        self._cache = cache
        self._clock = clock
        self._max_bytes = max_bytes
        self._known: dict[_Name, _CacheEntry] = {}
        self._downloads: dict[_Name, asyncio.Task[str]] = {}
        self._threads = Threads(THREADS, thread_name_prefix="lora-files")

    async def acquire(
        self,
        requested: Sequence[RequestedLora],
        locked_files: list[CachedFile],
        files: OwnFiles,
        scope: str = "",
        tenant: str = "",
    ) -> tuple[FetchedLora, ...]:
        """Fetch the LoRA files, lock them, and append them to ``locked_files``, to be released.

        Raises ``InvalidInput``, which names the field, if a file cannot be fetched, is too large,
        or is not a safetensors file. ``files``: access to our own storage. ``scope``: a file that
        was fetched in another one is fetched again, so that the time tells nothing about it.
        ``tenant``: the scope of private files where all tenants share one, as their rights differ.
        """
        fetched: list[FetchedLora] = []
        for lora in requested:
            file = await self._acquire(lora, _Name.of(lora.source, scope, tenant), files)
            locked_files.append(file)
            fetched.append(FetchedLora(lora, file.path))
        return tuple(fetched)

    def is_current(self, source: LoraSource, scope: str = "", tenant: str = "") -> bool:
        """True if the file of this name was fetched, and no server needs to be asked again."""
        return self._current(_Name.of(source, scope, tenant)) is not None

    def _current(self, name: _Name) -> _CacheEntry | None:
        last = self._known.get(name)
        if last is None or _is_fixed(name.source):
            return last
        return last if self._clock.monotonic() - last.at < REVALIDATE_S else None

    async def aclose(self) -> None:
        for task in self._downloads.values():
            task.cancel()
        await asyncio.gather(*self._downloads.values(), return_exceptions=True)
        self._threads.shutdown(wait=False, cancel_futures=True)
        await self._web.aclose()

    async def _acquire(self, requested: RequestedLora, name: _Name, files: OwnFiles) -> CachedFile:
        while True:
            try:
                key = await self._key(name, files)
            except InvalidInput as error:
                problem = error.problems[0]
                raise InvalidInput.of_field(
                    requested.field, problem.message, problem.type, problem.context
                ) from error
            # On this thread, as it is quick: cancelling a wait for another would leak the lock.
            file = self._cache.acquire(key)
            if file is not None:
                return file
            self._known.pop(name, None)  # it was evicted in between

    async def _key(self, name: _Name, files: OwnFiles) -> str:
        """Cache key of the file, which is fetched if needed. Cancelling one caller does not stop
        the download: other and later callers use it."""
        if (last := self._current(name)) is not None:
            return last.key
        task = self._downloads.get(name)
        if task is None:
            task = self._downloads[name] = asyncio.create_task(self._fetch(name, files))
            task.add_done_callback(lambda ended: self._on_download_end(name, ended))
        return await asyncio.shield(task)

    def _on_download_end(self, name: _Name, task: asyncio.Task[str]) -> None:
        del self._downloads[name]
        if not task.cancelled():
            task.exception()  # mark it as retrieved: there may be no waiter left to raise it to

    async def _fetch(self, name: _Name, files: OwnFiles) -> str:
        source = name.source
        if isinstance(source, HubFile):
            key, version = await self._on_thread(self._from_hub, source, name), Version()
        elif isinstance(source, RegisteredFile):
            key, version = await self._fetch_registered(source, name, files), Version()
        else:
            key, version = await self._from_web(source, name, files)
        if len(self._known) >= MAX_REMEMBERED:
            self._known.clear()
        if not _is_inline(source):
            self._known[name] = _CacheEntry(key, version, self._clock.monotonic())
        return key

    async def _from_web(self, source: FileUrl, name: _Name, files: OwnFiles) -> tuple[str, Version]:
        last = self._known.get(name)
        if last is not None and not self._is_here(last.key):
            last = None
        with self._cache.part() as part:
            sink = _Sink(part, self._cache.check_space)
            version = await self._web.stream(
                source.url, _UNNAMED, sink, files, last.version if last else None
            )
            if last is not None and version is None:
                return last.key, last.version
            key = name.key_of(sink.digest)
            await self._on_thread(self._keep, part, key)
            return key, version or Version()

    async def _fetch_registered(self, source: RegisteredFile, name: _Name, files: OwnFiles) -> str:
        key = name.key_of(source.digest)
        if self._is_here(key):
            return key
        url = await self._url_of(source.digest)
        if not url:
            raise _unread(f"the registered weights {source.name!r} do not exist any more")
        with self._cache.part() as part:
            sink = _Sink(part, self._cache.check_space)
            await self._web.stream(url, _UNNAMED, sink, files)
            if sink.digest != source.digest:
                raise _unread(f"the registered weights {source.name!r} are damaged in storage")
            await self._on_thread(self._keep, part, key)
        return key

    async def _url_of(self, digest: str) -> str:
        """URL of a registered file; empty if there is none. ``StorageRetry``: the ingress does not
        answer, which is no fault of the input."""
        if self._locate is None or not digest:
            return ""
        try:
            async with asyncio.timeout(LOCATE_S):
                return await self._locate(digest)
        except Exception as error:  # such as Ray's, while an ingress restarts
            if isinstance(error, DarkroomError) and not error.retryable:
                raise
            log.warning("The ingress did not locate a registered file: %r", error)
            raise StorageRetry("The ingress did not say where a registered file is.") from error

    def _from_hub(self, source: HubFile, name: _Name) -> str:
        try:
            listing = self._hub.listing(source.repository, source.revision)
            files = {candidate.path: candidate for candidate in listing.files}
            file = files[select_lora(list(files), source.repository, source.file)]
            if file.size > self._max_bytes:
                message = f"the file is larger than {self._max_bytes} bytes"
                limits = {"max_size": self._max_bytes}
                raise InvalidInput.of_field(_UNNAMED, message, "file_too_large", limits)
            # A file outside of LFS is listed with an id of git, which no rule or record names.
            listed = file.digest if len(file.digest) == SHA256_DIGITS else ""
            if listed and self._is_here(name.key_of(listed)):
                return name.key_of(listed)
        except WeightsUnavailable as error:
            raise _unread(error.message) from error
        with self._cache.part() as part:
            self._cache.check_space(file.size)
            path = Path(part.name)
            try:
                self._hub.write(listing, file, path)
            except WeightsUnavailable as error:
                raise _unread(error.message) from error
            key = name.key_of(listed or digest_of(path, _SHA256))
            self._keep(part, key)
            return key

    def _is_here(self, key: str) -> bool:
        file = self._cache.acquire(key)
        if file is not None:
            file.release()
        return file is not None

    def _keep(self, part: BinaryIO, key: str) -> None:
        part.flush()
        _check_safetensors(Path(part.name))
        self._cache.keep(part, key)

    async def _on_thread(self, call: Callable[..., T], *arguments: Any) -> T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, call, *arguments)


class _Sink:
    """Writer that stops the download early if the content is not a safetensors file, for example
    an HTML login page or a pickle of gigabytes."""

    def __init__(self, file: BinaryIO, check_room: Callable[[int], None]) -> None:
        self._file = file
        self._check_room = check_room
        self._room = 0  # bytes that may be written until the free space is checked again
        self._digest = hashlib.sha256()
        self._head = b""

    def __call__(self, part: bytes) -> None:
        if len(self._head) <= HEADER_BYTES:
            self._head += part[: HEADER_BYTES + 1]
            if (
                len(self._head) > HEADER_BYTES
                and self._head[HEADER_BYTES : HEADER_BYTES + 1] != b"{"
            ):
                raise _no_safetensors()
        if len(part) > self._room:
            self._room = len(part) + LOOK_BYTES
            self._check_room(self._room)
        self._room -= len(part)
        self._digest.update(part)
        self._file.write(part)

    @property
    def digest(self) -> str:
        return self._digest.hexdigest()


def _is_fixed(source: LoraSource) -> bool:
    """True if the source can never mean another file."""
    if isinstance(source, RegisteredFile):
        return True
    return isinstance(source, HubFile) and _COMMIT.fullmatch(source.revision or "") is not None


def _is_inline(source: LoraSource) -> bool:
    """True if the URL itself contains the file: remembering it would only cost megabytes."""
    return isinstance(source, FileUrl) and is_data_uri(source.url)


def _check_safetensors(path: Path) -> None:
    """Raise ``InvalidInput`` unless the header is valid and matches the file's size."""
    from safetensors import SafetensorError, safe_open  # noqa: PLC0415

    try:
        with safe_open(path, framework="np"):
            return
    except (SafetensorError, OSError) as error:
        raise _no_safetensors() from error


def _no_safetensors() -> InvalidInput:
    message = "the file is not a safetensors file; pickle files can run code and are never loaded"
    return InvalidInput.of_field(_UNNAMED, message, "unsupported_file")


def _unread(message: str) -> InvalidInput:
    return InvalidInput.of_field(_UNNAMED, message, "file_download_error")


_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = "0" * SHA256_DIGITS  # only selects the kind of digest to compute
_UNNAMED = "path"  # placeholder: several waiting callers have different fields


@dataclass(slots=True)
class LoraUse:
    """The LoRA files that one attempt uses. Always call ``release`` at the end."""

    _fetcher: LoraFetcher
    _scope: str = ""  # see ``LoraFetcher.acquire``
    _tenant: str = ""  # see there
    _held: list[CachedFile] = field(default_factory=list[CachedFile], init=False)
    _fetched: Sequence[FetchedLora] = field(default=(), init=False)

    async def fetch(self, requested: Sequence[RequestedLora], files: OwnFiles) -> None:
        """Fetch and lock the files. ``InvalidInput`` names the field of a file that fails."""
        self._fetched = await self._fetcher.acquire(
            requested, self._held, files, self._scope, self._tenant
        )

    def are_here(self, requested: Sequence[RequestedLora]) -> bool:
        """True if no file needs to be fetched. An inline file is here."""
        is_current = partial(self._fetcher.is_current, scope=self._scope, tenant=self._tenant)
        return all(_is_inline(lora.source) or is_current(lora.source) for lora in requested)

    def loras(self) -> list[Lora]:
        """The LoRAs in the form that the engine takes, in the order of the input."""
        from deployments.engine.lora.format import Lora  # noqa: PLC0415

        return [Lora(lora.file, lora.requested.scale) for lora in self._fetched]

    def as_owners_error(self, error: LoraRefused) -> InvalidInput:
        """Turn an engine error about a file into an error of the input field that names it."""
        if error.number is None:
            return InvalidInput.of_field(FIELD, error.message, "unsupported_file")
        fetched = self._fetched[error.number]
        message = error.message.replace(f" {fetched.file}", "")  # hide our local path
        return InvalidInput.of_field(fetched.requested.field, message, "unsupported_file")

    def note(self, number: int, note: str) -> str:
        """Line of the request's log about a LoRA. ``number``: negative for the endpoint's own."""
        if number < 0:
            return f"The endpoint's own LoRA: {note}"
        return f"{self._fetched[number].requested.field}: {note}"

    def release(self) -> None:
        files, self._held = self._held, []
        for file in files:
            file.release()
