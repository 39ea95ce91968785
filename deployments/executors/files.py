"""Files of a request that an executor runs: inputs are fetched, outputs are uploaded."""

from __future__ import annotations

import asyncio
import mimetypes
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from deployments.executors.base import FILE_MARK, PATH_KEY
from deployments.replica.files import check_marks
from deployments.transfer.fetcher import Fetcher, OwnFiles
from deployments.transfer.uploader import FileSink, MediaFile
from serve_app.domain.artifact import Artifact, UploadTicket
from serve_app.domain.errors import ContentBlocked, PipelineFailed
from serve_app.domain.lease import Lease
from serve_app.domain.media.marking import MarkPolicy
from serve_app.domain.ports import AppSource
from serve_app.domain.progress import Progress, Stage

MAX_FILES = 64  # of one output

_OF_WORKER = (PATH_KEY, "media_type")

Place = tuple[str | int, ...]

Schema = Mapping[str, Any]


def file_places(value: Any, schema: Schema, root: Schema | None = None) -> Iterator[Place]:
    """Places in ``value`` where ``schema`` has a file that is given by a URL."""
    root = schema if root is None else root
    schema = _resolved(schema, root)
    if FILE_MARK in schema:
        yield from ((),) if isinstance(value, str) else ()
        return
    for each in (*schema.get("anyOf", ()), *schema.get("oneOf", ()), *schema.get("allOf", ())):
        if found := list(file_places(value, each, root)):
            yield from found
            return
    for part, inner, under in _parts(value, schema):
        for place in file_places(inner, under, root):
            yield (part, *place)


def _parts(value: Any, schema: Schema) -> Iterator[tuple[str | int, Any, Schema]]:
    """Parts of an object or a list, with their schemas."""
    if isinstance(value, Mapping):
        for name, inner in cast("Mapping[str, Any]", value).items():
            under = schema.get("properties", {}).get(name) or schema.get("additionalProperties")
            if isinstance(under, Mapping):
                yield name, inner, cast("Schema", under)
    elif isinstance(value, list) and isinstance(schema.get("items"), Mapping):
        for number, inner in enumerate(cast("list[Any]", value)):
            yield number, inner, schema["items"]


def _resolved(schema: Schema, root: Schema) -> Schema:
    reference = schema.get("$ref")
    if not isinstance(reference, str) or not reference.startswith("#/"):
        return schema
    found: Any = root
    for part in reference[2:].split("/"):
        found = found.get(part, {})
    return cast("Schema", found)


def replaced(value: Any, place: Place, new: Any) -> Any:
    """Copy of ``value`` with ``new`` at ``place``."""
    if not place:
        return new
    first, *rest = place
    copy: Any = dict(cast("Schema", value)) if isinstance(value, Mapping) else list(value)
    copy[first] = replaced(copy[first], tuple(rest), new)
    return copy


class RequestFiles:
    """Files of one attempt, in a folder of its own. Use on one event loop."""

    def __init__(
        self,
        lease: Lease,
        folder: Path,
        fetcher: Fetcher,
        uploader: FileSink,
        tickets: AppSource,
    ) -> None:
        self.folder = folder
        self._lease = lease
        self._fetcher = fetcher
        self._uploader = uploader
        self._tickets = tickets
        self._uploaded: list[UploadTicket] = []

    @property
    def _schema(self) -> Schema:
        return cast("Schema", self._lease.endpoint.options.get("input_schema") or {})

    @property
    def are_remote(self) -> bool:
        """True if the input names files."""
        return next(file_places(self._lease.input, self._schema), None) is not None

    async def fetch(self, on_progress: Callable[[Progress], None]) -> Mapping[str, Any]:
        """Fetch the files that the input names. Returns it with their paths.

        Raises ``InvalidInput``, which names the field.
        """
        lease, given = self._lease, self._lease.input
        places = list(file_places(given, self._schema))
        if places:
            await asyncio.to_thread(self.folder.mkdir, parents=True, exist_ok=True)
        for number, place in enumerate(places):
            on_progress(Progress(Stage.FETCHING, number, len(places)))
            url = str(_at(given, place))
            field = ".".join(map(str, place))
            body = await self._fetcher.fetch(url, field, OwnFiles.of(lease))
            path = self.folder / f"input-{number}{_suffix(url)}"
            await asyncio.to_thread(path.write_bytes, body)
            given = replaced(given, place, {PATH_KEY: str(path)})
        return given

    async def store(
        self, output: Mapping[str, Any], on_progress: Callable[[Progress], None]
    ) -> tuple[Mapping[str, Any], tuple[Artifact, ...]]:
        """Upload the files of ``output``. Returns it with their keys, and the artifacts."""
        places = list(_paths(output))
        if len(places) > MAX_FILES:
            raise PipelineFailed(f"The output has {len(places)} files; at most {MAX_FILES} may be.")
        if places and self._lease.output_rules:
            raise ContentBlocked(
                "Files of apps cannot be checked, and the operator's safety policy demands it for "
                "this endpoint. The operator can leave the endpoint out of the policy."
            )
        artifacts: list[Artifact] = []
        for number, (place, given) in enumerate(places):
            on_progress(Progress(Stage.UPLOADING, number, len(places)))
            path = Path(str(given[PATH_KEY]))
            if not await asyncio.to_thread(path.is_file):
                raise PipelineFailed(f"The output names the file {path.name}, which is not there.")
            media_type = str(given.get("media_type") or "application/octet-stream")
            ticket = await self._tickets.file_ticket(
                self._lease.held, self._lease.tenant, number, media_type
            )
            facts = {key: each for key, each in given.items() if key not in _OF_WORKER}
            file = MediaFile(ticket, path, _pixels(facts, "width"), _pixels(facts, "height"))
            if self._lease.marking == MarkPolicy.REQUIRED:
                await asyncio.to_thread(check_marks, [file], MarkPolicy.REQUIRED)
            artifact = await asyncio.to_thread(file.artifact)
            self._uploaded.append(ticket)
            await self._uploader.put(file)
            artifacts.append(artifact)
            stored = {"artifact": ticket.key, "content_type": media_type, **facts}
            output = replaced(output, place, stored)
        return output, tuple(artifacts)

    async def discard(self) -> None:
        """Delete the uploaded files. They will never be read."""
        for ticket in self._uploaded:
            await self._uploader.delete(ticket)

    async def remove(self) -> None:
        """Remove the folder with all files."""
        if self.folder.is_dir():  # most requests have no files, and a thread takes 0.1 ms
            await asyncio.to_thread(shutil.rmtree, self.folder, ignore_errors=True)


def _pixels(facts: Mapping[str, Any], name: str) -> int | None:
    value = facts.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _suffix(url: str) -> str:
    """Extension for a local copy, so that libraries that look at names know the format."""
    if url[:5].lower() == "data:":
        return mimetypes.guess_extension(url[5:].partition(";")[0].partition(",")[0]) or ""
    suffix = Path(url.partition("?")[0].partition("#")[0]).suffix
    return suffix if len(suffix) <= 6 and suffix[1:].isalnum() else ""


def _at(value: Any, place: Place) -> Any:
    for part in place:
        value = value[part]
    return value


def _paths(value: Any, place: Place = ()) -> Iterator[tuple[Place, Mapping[str, Any]]]:
    """Files in an output, with their places."""
    if isinstance(value, Mapping):
        fields = cast("Mapping[str, Any]", value)
        if isinstance(fields.get(PATH_KEY), str):
            yield place, fields
            return
        for name, inner in fields.items():
            yield from _paths(inner, (*place, name))
    elif isinstance(value, (list, tuple)):
        for number, inner in enumerate(cast("Sequence[Any]", value)):
            yield from _paths(inner, (*place, number))
