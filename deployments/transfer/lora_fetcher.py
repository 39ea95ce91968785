"""Brings the adapters that inputs name to this node: each once, however many ask for it."""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from deployments.adapter_cache import AdapterCache, HeldFile
from deployments.adapter_input import AskedAdapter
from deployments.engine.threads import Threads
from deployments.fetching import Fetcher, Version
from serve_app.domain.adapter_path import FileUrl, HubFile
from serve_app.domain.errors import InvalidInput, WeightsUnavailable
from serve_app.domain.ports import Clock
from weights.digest import digest_of, known
from weights.repository_files import RepositoryFiles
from weights.selection import select_adapter

T = TypeVar("T")

ASK_AGAIN_S = 60.0
"""For so long the same name is taken for the same file, without asking whether it changed."""

MOST_REMEMBERED = 1024  # names
THREADS = 4  # that read, write, and wait for the hub
LOOK_BYTES = 16 * 2**20  # written between two looks at the disk
HEADER_BYTES = 8  # at the beginning of a safetensors file: the size of the JSON that follows


@dataclass(frozen=True, slots=True)
class Fetched:
    """An adapter that an input asks for, as a file of this node."""

    asked: AskedAdapter
    file: Path


@dataclass(frozen=True, slots=True)
class _Known:
    """What a name was when it was last asked for."""

    key: str  # in the cache
    version: Version
    at: float  # on the clock


class AdapterFetcher:
    """Give it to one event loop. Use ``aclose`` when nothing is fetched any more."""

    def __init__(
        self,
        web: Fetcher,
        hub: RepositoryFiles,
        cache: AdapterCache,
        clock: Clock,
        max_bytes: int,
    ) -> None:
        """``web`` refuses what is larger than ``max_bytes``."""
        self._web = web
        self._hub = hub
        self._cache = cache
        self._clock = clock
        self._max_bytes = max_bytes
        self._known: dict[FileUrl | HubFile, _Known] = {}
        self._underway: dict[FileUrl | HubFile, asyncio.Task[str]] = {}
        self._threads = Threads(THREADS, thread_name_prefix="adapter-files")

    async def hold(
        self, asked: Sequence[AskedAdapter], held: list[HeldFile], files_url: str
    ) -> tuple[Fetched, ...]:
        """Their files, which also come to ``held``, for the caller to release.

        ``InvalidInput`` names the field of what cannot be had, is too large, or is no safetensors
        file. ``files_url``: the origin at which our own files are read.
        """
        found: list[Fetched] = []
        for each in asked:
            file = await self._hold(each, files_url)
            held.append(file)
            found.append(Fetched(each, file.path))
        return tuple(found)

    async def aclose(self) -> None:
        for task in self._underway.values():
            task.cancel()
        await asyncio.gather(*self._underway.values(), return_exceptions=True)
        self._threads.shutdown(wait=False, cancel_futures=True)
        await self._web.aclose()

    async def _hold(self, asked: AskedAdapter, files_url: str) -> HeldFile:
        while True:
            try:
                key = await self._key(asked.source, files_url)
            except InvalidInput as error:
                problem = error.problems[0]
                raise InvalidInput.of_field(
                    asked.field, problem.message, problem.type, problem.context
                ) from error
            # On this thread, quick as it is: a cancelled wait for another would leave it held.
            file = self._cache.hold(key)
            if file is not None:
                return file
            self._known.pop(asked.source, None)  # evicted meanwhile

    async def _key(self, source: FileUrl | HubFile, files_url: str) -> str:
        """In the cache, of what is there by then. Whoever is cancelled leaves the fetch to the
        others, and to the next."""
        last = self._known.get(source)
        if last is not None and (
            _is_fixed(source) or self._clock.monotonic() - last.at < ASK_AGAIN_S
        ):
            return last.key
        task = self._underway.get(source)
        if task is None:
            task = self._underway[source] = asyncio.create_task(self._fetch(source, files_url))
            task.add_done_callback(lambda ended: self._ended(source, ended))
        return await asyncio.shield(task)

    def _ended(self, source: FileUrl | HubFile, task: asyncio.Task[str]) -> None:
        del self._underway[source]
        if not task.cancelled():
            task.exception()  # told to those who waited; there may be none left

    async def _fetch(self, source: FileUrl | HubFile, files_url: str) -> str:
        if isinstance(source, HubFile):
            key, version = await self._on_thread(self._from_hub, source), Version()
        else:
            key, version = await self._from_web(source, files_url)
        if len(self._known) >= MOST_REMEMBERED:
            self._known.clear()
        if not _is_inline(source):
            self._known[source] = _Known(key, version, self._clock.monotonic())
        return key

    async def _from_web(self, source: FileUrl, files_url: str) -> tuple[str, Version]:
        last = self._known.get(source)
        if last is not None and not self._is_here(last.key):
            last = None
        with self._cache.part() as part:
            sink = _Sink(part, self._cache.check_room)
            version = await self._web.stream(
                source.url, _UNNAMED, sink, files_url, last.version if last else None
            )
            if last is not None and version is None:
                return last.key, last.version
            await self._on_thread(self._keep, part, sink.key)
            return sink.key, version or Version()

    def _from_hub(self, source: HubFile) -> str:
        try:
            listing = self._hub.listing(source.repository, source.revision)
            files = {each.path: each for each in listing.files}
            file = files[select_adapter(list(files), source.repository, source.file)]
            if file.size > self._max_bytes:
                message = f"the file is larger than {self._max_bytes} bytes"
                most = {"max_size": self._max_bytes}
                raise InvalidInput.of_field(_UNNAMED, message, "file_too_large", most)
            if known(file.digest) and self._is_here(file.digest):
                return file.digest
        except WeightsUnavailable as error:
            raise _unread(error.message) from error
        with self._cache.part() as part:
            self._cache.check_room(file.size)
            path = Path(part.name)
            try:
                self._hub.write(listing, file, path)
            except WeightsUnavailable as error:
                raise _unread(error.message) from error
            key = file.digest if known(file.digest) else digest_of(path, _SHA256)
            self._keep(part, key)
            return key

    def _is_here(self, key: str) -> bool:
        file = self._cache.hold(key)
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
    """Writes what comes, and ends it when its beginning is not that of a safetensors file: what
    asks for a password, say, or a pickle of gigabytes."""

    def __init__(self, file: BinaryIO, check_room: Callable[[int], None]) -> None:
        self._file = file
        self._check_room = check_room
        self._room = 0  # bytes, for which there was some when it was last looked
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
    def key(self) -> str:
        return self._digest.hexdigest()


def _is_fixed(source: FileUrl | HubFile) -> bool:
    """Whether it can never be another file."""
    return isinstance(source, HubFile) and _COMMIT.fullmatch(source.revision or "") is not None


def _is_inline(source: FileUrl | HubFile) -> bool:
    """Whether it holds its file itself: then there is nothing to remember but megabytes."""
    return isinstance(source, FileUrl) and source.url[:5].lower() == "data:"


def _check_safetensors(path: Path) -> None:
    """That its header is right, and speaks of as many bytes as there are."""
    from safetensors import SafetensorError, safe_open  # noqa: PLC0415

    try:
        with safe_open(path, framework="np"):
            return
    except (SafetensorError, OSError) as error:
        raise _no_safetensors() from error


def _no_safetensors() -> InvalidInput:
    message = "the file is no safetensors file; a pickle can run code and is never loaded"
    return InvalidInput.of_field(_UNNAMED, message, "unsupported_file")


def _unread(message: str) -> InvalidInput:
    return InvalidInput.of_field(_UNNAMED, message, "file_download_error")


_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = "0" * 64  # what kind of digest to compute
_UNNAMED = "path"  # those who wait for one file have different fields
