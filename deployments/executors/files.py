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
from serve_app.domain.errors import ContentBlocked, InvalidInput, PipelineFailed
from serve_app.domain.lease import Lease
from serve_app.domain.media.marking import MarkPolicy
from serve_app.domain.ports import AppSource
from serve_app.domain.progress import Progress, Stage

MAX_FILES = 64  # of one output, and of one input

ARTIFACT = "artifact"
"""Key of the object that stands for a stored file in an outcome."""

_RESERVED = (PATH_KEY, "media_type", ARTIFACT, "url")
"""Fields of a file that an app does not decide about."""

Place = tuple[str | int, ...]

Schema = Mapping[str, Any]


def file_places(value: Any, schema: Schema, root: Schema | None = None) -> Iterator[Place]:
    """Places in ``value``, which ``schema`` accepts, where it has a file that is given by a URL.
    Each is named once."""
    root = schema if root is None else root
    known: set[Place] = set()
    for part in _applied(value, schema, root):
        found = [()] if FILE_MARK in part and isinstance(value, str) else _inner(value, part, root)
        for place in found:
            if place not in known:
                known.add(place)
                yield place


def _applied(value: Any, schema: Schema, root: Schema) -> Iterator[Schema]:
    """Schemas that say something about the same value: of a union, those that accept it."""
    yield schema
    reference = schema.get("$ref")
    if isinstance(reference, str):
        name = reference.removeprefix("#/$defs/")
        yield from _applied(value, root.get("$defs", {}).get(name, {}), root)
    for each in schema.get("allOf", ()):
        if isinstance(each, Mapping):
            yield from _applied(value, cast("Schema", each), root)
    for each in (*schema.get("anyOf", ()), *schema.get("oneOf", ())):
        if isinstance(each, Mapping) and _accepts(cast("Schema", each), value, root):
            yield from _applied(value, cast("Schema", each), root)


def _accepts(schema: Schema, value: Any, root: Schema) -> bool:
    """Check what tells the branches of a union apart: types, constants and required fields."""
    if not _fits(schema, value):
        return False
    reference = schema.get("$ref")
    if isinstance(reference, str):
        target = root.get("$defs", {}).get(reference.removeprefix("#/$defs/"), {})
        if not _accepts(target, value, root):
            return False
    if not isinstance(value, Mapping):
        return True
    fields = cast("Mapping[str, Any]", value)
    known = cast("Mapping[str, Any]", schema.get("properties", {}))
    return all(name in fields for name in schema.get("required", ())) and all(
        _fits(under, fields[name])
        for name, under in known.items()
        if name in fields and isinstance(under, Mapping)
    )


def _fits(schema: Schema, value: Any) -> bool:
    given = schema.get("type", ())
    types = (given,) if isinstance(given, str) else given
    return (
        (not types or any(_IS_TYPE[each](value) for each in types))
        and ("const" not in schema or schema["const"] == value)
        and ("enum" not in schema or value in schema["enum"])
    )


_IS_TYPE: Mapping[str, Callable[[Any], bool]] = {
    "array": lambda value: isinstance(value, list),
    "boolean": lambda value: isinstance(value, bool),
    "integer": lambda value: isinstance(value, (int, float)) and not isinstance(value, bool),
    "null": lambda value: value is None,
    "number": lambda value: isinstance(value, (int, float)) and not isinstance(value, bool),
    "object": lambda value: isinstance(value, Mapping),
    "string": lambda value: isinstance(value, str),
}


def _inner(value: Any, schema: Schema, root: Schema) -> Iterator[Place]:
    for part, inner, under in _parts(value, schema):
        for place in file_places(inner, under, root):
            yield (part, *place)


def _parts(value: Any, schema: Schema) -> Iterator[tuple[str | int, Any, Schema]]:
    """Parts of an object or a list, with their schemas."""
    found: list[tuple[str | int, Any, Any]] = []
    if isinstance(value, Mapping):
        known = cast("Mapping[str, Any]", schema.get("properties", {}))
        patterns = cast("Mapping[str, Any]", schema.get("patternProperties", {}))
        for name, inner in cast("Mapping[str, Any]", value).items():
            under = [known[name]] if name in known else []
            under = under or [*patterns.values(), schema.get("additionalProperties")]
            found += [(name, inner, each) for each in under]
    elif isinstance(value, list):
        first = cast("Sequence[Any]", schema.get("prefixItems", ()))
        for number, inner in enumerate(cast("list[Any]", value)):
            under = first[number] if number < len(first) else schema.get("items")
            found.append((number, inner, under))
    for part, inner, under in found:
        if isinstance(under, Mapping):
            yield part, inner, cast("Schema", under)


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
        places = self._places(given)
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
        self._check_output(output, len(places))
        artifacts: list[Artifact] = []
        for number, (place, given) in enumerate(places):
            on_progress(Progress(Stage.UPLOADING, number, len(places)))
            path = await asyncio.to_thread(self._own_file, Path(str(given[PATH_KEY])))
            media_type = str(given.get("media_type") or "application/octet-stream")
            ticket = await self._tickets.file_ticket(
                self._lease.held, self._lease.tenant, number, media_type
            )
            facts = {key: each for key, each in given.items() if key not in _RESERVED}
            file = MediaFile(ticket, path, _pixels(facts, "width"), _pixels(facts, "height"))
            if self._lease.marking == MarkPolicy.REQUIRED:
                await asyncio.to_thread(check_marks, [file], MarkPolicy.REQUIRED)
            artifact = await asyncio.to_thread(file.artifact)
            self._uploaded.append(ticket)
            await self._uploader.put(file)
            artifacts.append(artifact)
            stored = {**facts, ARTIFACT: ticket.key, "content_type": media_type}
            output = replaced(output, place, stored)
        return output, tuple(artifacts)

    def _places(self, given: Mapping[str, Any]) -> list[Place]:
        """Places of the files that an input names. Raises ``InvalidInput``."""
        if (hidden := next(_paths(given), None)) is not None:
            field = ".".join(map(str, (*hidden[0], PATH_KEY)))
            raise InvalidInput.of_field(field, "Input should not have a field of this name")
        places = list(file_places(given, self._schema))
        if len(places) > MAX_FILES:
            field = ".".join(map(str, places[MAX_FILES]))
            message = f"Input has {len(places)} files; at most {MAX_FILES} are possible"
            raise InvalidInput.of_field(field, message)
        return places

    def _check_output(self, output: Mapping[str, Any], files: int) -> None:
        if files > MAX_FILES:
            raise PipelineFailed(f"The output has {files} files; at most {MAX_FILES} may be.")
        if any(PATH_KEY not in each for _, each in _objects_with(ARTIFACT, output)):
            # Else it would be shown as a file, whose key might have come from the input.
            raise PipelineFailed(
                f"The output has a field `{ARTIFACT}`, whose name is reserved. Rename it."
            )
        if files and self._lease.output_rules:
            raise ContentBlocked(
                "Files of apps cannot be checked, and the operator's safety policy demands it for "
                "this endpoint. The operator can leave the endpoint out of the policy."
            )

    def _own_file(self, path: Path) -> Path:
        """File that an output names, with its links followed. An app may deliver any file that it
        can read, such as one of its code, but none of another request."""
        found, requests = path.resolve(), self.folder.parent.resolve()
        others = found.is_relative_to(requests)
        if others and not found.is_relative_to(self.folder.resolve()):
            raise PipelineFailed(
                f"The output names the file {path.name}, which belongs to another request. Write "
                "files to the folder of the request, such as with Image.from_pil()."
            )
        if not found.is_file():
            raise PipelineFailed(f"The output names the file {path.name}, which is not there.")
        return found

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


def _paths(value: Any) -> Iterator[tuple[Place, Mapping[str, Any]]]:
    """Files of this machine in an input or output, with their places."""
    return _objects_with(PATH_KEY, value)


def _objects_with(
    key: str, value: Any, place: Place = ()
) -> Iterator[tuple[Place, Mapping[str, Any]]]:
    """Objects whose field ``key`` is a text, with their places. Not those inside of such ones."""
    if isinstance(value, Mapping):
        fields = cast("Mapping[str, Any]", value)
        if isinstance(fields.get(key), str):
            yield place, fields
            return
        for name, inner in fields.items():
            yield from _objects_with(key, inner, (*place, name))
    elif isinstance(value, (list, tuple)):
        for number, inner in enumerate(cast("Sequence[Any]", value)):
            yield from _objects_with(key, inner, (*place, number))
