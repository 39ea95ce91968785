"""Files of a request at a provider: inputs are sent inside of it, outputs are fetched at once."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import httpx2

from darkroom.media_types import DEFAULT_MEDIA_TYPE, type_of_name
from deployments.executors.base import PATH_KEY, ExecutorWork, MadeFile
from deployments.executors.hosted.calls import HostedFile, Wire, error_text
from deployments.transfer.fetcher import Fetcher, OwnFiles
from deployments.transfer.uploader import StorageRetry
from serve_app.domain.errors import HostedFailed, InvalidInput, Misconfigured
from serve_app.domain.media.data_uri import data_uri
from serve_app.options.hosted import HostedEndpoint

MAX_INLINE_BYTES = 10 * 2**20
"""Largest input file: it is sent as base64, inside of the JSON."""

TRIES = 5
PAUSES = 1.0, 8.0


class HostedFilesAway(HostedFailed):
    """The files of a job that has ended cannot be fetched now. Another attempt reads them again."""

    retryable = True


class HostedFiles:
    """Files of one request."""

    def __init__(
        self,
        work: ExecutorWork,
        spec: HostedEndpoint,
        fetcher: Fetcher,
        pauses: tuple[float, float] = PAUSES,
    ) -> None:
        """``pauses``: seconds before the second try of a file, and the most before another."""
        self.warnings: list[str] = []
        self._pauses = pauses
        self._work = work
        self._spec = spec
        self._fetcher = fetcher
        self._number = 0
        self._wire: Wire | None = None

    def inline_input(self) -> Mapping[str, Any]:
        """The input with ``data:`` URIs in place of files. ``InvalidInput`` names one that is too
        large. Blocks."""
        return cast("Mapping[str, Any]", self._inline_files(dict(self._work.input), ""))

    def _inline_files(self, value: Any, field: str) -> Any:
        if isinstance(value, Mapping):
            fields = cast("Mapping[str, Any]", value)
            if isinstance(fields.get(PATH_KEY), str):
                return _data_uri(Path(fields[PATH_KEY]), field)
            return {
                name: self._inline_files(inner, f"{field}.{name}".strip("."))
                for name, inner in fields.items()
            }
        if isinstance(value, list | tuple):
            listed = cast("list[Any]", value)
            return [
                self._inline_files(item, f"{field}.{number}") for number, item in enumerate(listed)
            ]
        return value

    async def fetch_output(self, output: Mapping[str, Any], wire: Wire) -> Mapping[str, Any]:
        """An output with files of this machine in place of ``HostedFile``."""
        self._wire = wire
        return cast("Mapping[str, Any]", await self._fetch_files(dict(output)))

    async def _fetch_files(self, value: Any) -> Any:
        if isinstance(value, HostedFile):
            return await self._file(value)
        if isinstance(value, Mapping):
            fields = cast("Mapping[str, Any]", value)
            return {name: await self._fetch_files(inner) for name, inner in fields.items()}
        if isinstance(value, list):
            return [await self._fetch_files(item) for item in cast("list[Any]", value)]
        return value

    async def _file(self, file: HostedFile) -> Any:
        """A file of this machine. One that cannot be fetched stays as the provider has written it,
        because the result is paid, unless the operator demands that files are checked or marked."""
        try:
            return await self._local(file)
        except HostedFilesAway as error:
            if file.raw is None or not self._work.may_link:
                raise
            self.warnings.append(
                f"{error.message}. The output has the provider's URL, which may expire soon."
            )
            return file.raw

    async def _local(self, file: HostedFile) -> Mapping[str, Any]:
        suffix = Path(urlsplit(file.url).path).suffix if file.content is None else ""
        suffix = suffix if suffix[1:].isalnum() and len(suffix) <= 6 else ""
        path = self._work.folder / f"output-{self._number}{suffix}"
        self._number += 1
        await asyncio.to_thread(path.parent.mkdir, parents=True, exist_ok=True)
        media_type = file.media_type
        if file.content is not None:
            await asyncio.to_thread(path.write_bytes, file.content)
        else:
            media_type = await self._download(file, path) or media_type
        known = media_type or type_of_name(path.name) or DEFAULT_MEDIA_TYPE
        return MadeFile({**file.facts, PATH_KEY: str(path), "media_type": known})

    async def _download(self, file: HostedFile, path: Path) -> str:
        """Fetch a file, with several tries. Returns its media type, if the server says it."""
        for attempt in range(TRIES):
            try:
                if not file.with_key:
                    await self._without_key(file.url, path)
                    return ""
                return await self._with_key(file.url, path)
            except (InvalidInput, StorageRetry, httpx2.HTTPError) as error:
                what = str(error) or type(error).__name__
                if attempt == TRIES - 1:
                    raise HostedFilesAway(
                        f"A file of {self._spec.account} cannot be fetched: {what}"
                    ) from error
            first, most = self._pauses
            await asyncio.sleep(min(first * 2**attempt, most))
        raise AssertionError

    async def _with_key(self, url: str, path: Path) -> str:
        """Read a file with the provider's key, which only its own server gets. Returns its media
        type."""
        if self._wire is None:
            raise Misconfigured("The file has no server.")
        async with self._wire.stream(url) as answer:
            media_type = answer.headers.get("content-type", "").partition(";")[0]
            if answer.next_request is not None:
                await self._without_key(str(answer.next_request.url), path)
                return ""
            if not answer.is_success:
                await answer.aread()
                raise InvalidInput(error_text(answer))
            with path.open("wb") as written:
                async for chunk in answer.aiter_bytes():
                    written.write(chunk)
                    self._fetcher.check_size(written.tell(), "output")
            return media_type

    async def _without_key(self, url: str, path: Path) -> None:
        """Read a file by the rules for URLs of requests."""
        # A Darkroom of someone else may have a private address. It leads to no other.
        is_darkroom = self._spec.provider == "darkroom"
        own = OwnFiles(self._spec.url, trusted=False) if is_darkroom else OwnFiles()
        with path.open("wb") as written:
            await self._fetcher.stream(url, "output", written.write, own)


def _data_uri(path: Path, field: str) -> str:
    size = path.stat().st_size
    if size > MAX_INLINE_BYTES:
        raise InvalidInput.of_field(
            field,
            f"The file has {size >> 20} MiB; at most {MAX_INLINE_BYTES >> 20} MiB can be sent to a "
            "hosted provider",
        )
    media_type = type_of_name(path.name) or DEFAULT_MEDIA_TYPE
    return data_uri(path.read_bytes(), media_type)
