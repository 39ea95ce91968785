"""Files of a request that an executor runs: inputs are fetched, outputs are uploaded."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, cast

from darkroom.media_types import type_of_name
from deployments.executors.base import PATH_KEY, MadeFile
from deployments.executors.checks import OutputChecks
from deployments.executors.marks import FileMarks
from deployments.executors.places import (
    ARTIFACT,
    DEFAULT_MEDIA_TYPE,
    Place,
    Schema,
    at,
    facts_of,
    file_places,
    local_files,
    media_type_of,
    objects_with,
    pixels_of,
    place_of_no_number,
    replace_at,
    suffix_of,
)
from deployments.replica.files import Thumbnail, ThumbnailUploads, thumbnail_of
from deployments.safety.outputs import SAFETY, with_sizes
from deployments.transfer.fetcher import Fetcher, OwnFiles
from deployments.transfer.uploader import FileSink, MediaFile
from serve_app.domain.artifact import Artifact, UploadTicket
from serve_app.domain.errors import InvalidInput, PipelineFailed
from serve_app.domain.executors.hosted import is_paid_answer
from serve_app.domain.json_depth import MAX_DEPTH, is_deep
from serve_app.domain.lease import Lease
from serve_app.domain.media.data_uri import data_uri
from serve_app.domain.ports import MAX_FILES, AppSource, FileSigner
from serve_app.domain.progress import MAX_PARTIAL_BYTES, Progress, Stage

THUMBNAIL_WAIT_S = 20.0
"""Time for thumbnails after the files themselves: what may have been paid for does not wait for
storage that falls silent."""
_DRAWING = ThreadPoolExecutor(1, thread_name_prefix="thumbnails")
"""Draws the thumbnails of all requests, one at a time: a large image takes 200 MB meanwhile."""


class RequestFiles:
    """Files of one attempt, in a folder of its own. Use on one event loop."""

    def __init__(
        self,
        lease: Lease,
        folder: Path,
        fetcher: Fetcher,
        uploader: FileSink,
        tickets: AppSource,
        checks: OutputChecks | None = None,
        signer: FileSigner | None = None,
    ) -> None:
        """``checks``: None for files that nothing can check. ``signer``: None if nothing signs."""
        self._checks = checks or OutputChecks(lease)
        self._marks = FileMarks(lease, folder, signer)
        self.folder = folder
        self._lease = lease
        self._fetcher = fetcher
        self._uploader = uploader
        self._tickets = tickets
        self._uploaded: list[UploadTicket] = []
        self.is_paid = is_paid_answer(lease.endpoint)
        """Its result is the answer to a paid call, and is nowhere but here."""

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
        lease, request_input = self._lease, self._lease.input
        places = self._places(request_input)
        if places:
            await asyncio.to_thread(self.folder.mkdir, parents=True, exist_ok=True)
        for number, place in enumerate(places):
            on_progress(Progress(Stage.FETCHING, number, len(places)))
            url = str(at(request_input, place))
            field = ".".join(map(str, place))
            body = await self._fetcher.fetch(url, field, OwnFiles.of(lease))
            path = self.folder / f"input-{number}{suffix_of(url)}"
            await asyncio.to_thread(path.write_bytes, body)
            request_input = replace_at(request_input, place, {PATH_KEY: str(path)})
        return request_input

    async def fetch_inline(self, fields: Mapping[str, Any]) -> Mapping[str, Any]:
        """``fields``, with data URIs in place of the URLs of files on other machines.

        Raises ``InvalidInput``, which names the field.
        """
        for place in self._places(fields):
            url = str(at(fields, place))
            if url[:7].lower() == "http://" or url[:8].lower() == "https://":
                own = OwnFiles.of(self._lease)
                body = await self._fetcher.fetch(url, ".".join(map(str, place)), own)
                media_type = type_of_name(f"file{suffix_of(url)}") or DEFAULT_MEDIA_TYPE
                fields = replace_at(fields, place, data_uri(body, media_type))
        return fields

    async def store(
        self, output: Mapping[str, Any], on_progress: Callable[[Progress], None]
    ) -> tuple[Mapping[str, Any], tuple[Artifact, ...]]:
        """Check, mark, sign and upload the files of ``output``. Returns it with their keys, and the
        artifacts."""
        _check_json(output)
        places = list(local_files(output))
        self._check_output(output, len(places))
        files: list[MediaFile] = []
        unmade: set[str] = set()  # keys of files that no model has made
        for number, (place, fields) in enumerate(places):
            path = await asyncio.to_thread(self._own_file, Path(str(fields[PATH_KEY])))
            media_type = media_type_of(fields)
            ticket = await self._tickets.file_ticket(
                self._lease.key, self._lease.tenant, number, media_type
            )
            facts = facts_of(fields)
            width, height = pixels_of(facts, "width"), pixels_of(facts, "height")
            files.append(MediaFile(ticket, path, width, height))
            if fields.get("generated") is False:
                unmade.add(ticket.key)
            stored = {**facts, ARTIFACT: ticket.key, "content_type": media_type}
            output = replace_at(output, place, stored)
        # The header of a result says by this field what this installation has checked. Not before:
        # the whole output may be a file.
        output = {name: value for name, value in output.items() if name != SAFETY}
        if files and self._lease.output_rules:
            output, files = await self._checks.check(output, files)

        def thumbnail(file: MediaFile) -> Awaitable[Thumbnail]:
            marked = self._lease.has_marked_files and file.ticket.key not in unmade
            draw = partial(thumbnail_of, file, marked=marked)
            return asyncio.get_running_loop().run_in_executor(_DRAWING, draw)

        self._marks.describe(output)
        thumbnails = ThumbnailUploads(files, thumbnail, self._uploader, self._uploaded)
        artifacts: list[Artifact] = []
        with thumbnails:
            for number, original in enumerate(files):
                on_progress(Progress(Stage.UPLOADING, number, len(files)))
                file = original
                if original.ticket.key not in unmade:
                    file = await self._marks.sign(await self._marks.mark(original, number), number)
                    output = with_sizes(output, {file.ticket.key: file.size})
                artifact = await asyncio.to_thread(file.artifact)
                self._uploaded.append(file.ticket)
                await self._uploader.put(file, without_end=self.is_paid)
                artifacts.append(artifact)
            return output, await thumbnails.added_to(artifacts, THUMBNAIL_WAIT_S)

    async def inline(self, output: Mapping[str, Any]) -> Mapping[str, Any]:
        """A partial result with its files as data URIs: they are in no storage, so nothing is left
        of them. ``PipelineFailed`` says why it cannot be shown."""
        _check_json(output)
        places = list(local_files(output))
        if places and self._lease.output_rules:
            raise PipelineFailed("The operator's safety policy checks files before they are seen.")
        size = 0
        for number, (place, fields) in enumerate(places):
            path = await asyncio.to_thread(self._own_file, Path(str(fields[PATH_KEY])))
            size += path.stat().st_size
            if size > MAX_PARTIAL_BYTES:
                raise PipelineFailed(
                    f"Its files have more than {MAX_PARTIAL_BYTES >> 20} MiB. Yield smaller ones."
                )
            media_type = media_type_of(fields)
            file = MediaFile(UploadTicket("", "", media_type, 0), path)
            if fields.get("generated") is not False:
                file = await self._marks.mark(file, number)
            body = await asyncio.to_thread(file.in_memory)
            url = data_uri(body, media_type)
            shown = {**facts_of(fields), "url": url, "content_type": media_type}
            alone = fields.get("$as") == "url"  # an app for fal wrote only the URL
            output = replace_at(output, place, url if alone else shown)
        return output

    def _places(self, fields: Mapping[str, Any]) -> list[Place]:
        """Places of the files that an input names. Raises ``InvalidInput``."""
        if (hidden := next(objects_with(PATH_KEY, fields), None)) is not None:
            field = ".".join(map(str, (*hidden[0], PATH_KEY)))
            raise InvalidInput.of_field(field, "Input should not have a field of this name")
        places = list(file_places(fields, self._schema))
        if len(places) > MAX_FILES:
            field = ".".join(map(str, places[MAX_FILES]))
            message = f"Input has {len(places)} files; at most {MAX_FILES} are possible"
            raise InvalidInput.of_field(field, message)
        return places

    def _check_output(self, output: Mapping[str, Any], files: int) -> None:
        if files > MAX_FILES:
            raise PipelineFailed(f"The output has {files} files; at most {MAX_FILES} may be.")
        if any(
            not isinstance(artifact, MadeFile) for _, artifact in objects_with(ARTIFACT, output)
        ):
            # Else it would be shown as a file, whose key might have come from the input.
            raise PipelineFailed(
                f"The output has a field `{ARTIFACT}`, whose name is reserved. Rename it."
            )

    def _own_file(self, path: Path) -> Path:
        """File that an output names, with its links followed. An app may deliver any file that it
        can read, such as one of its code, but none of another request."""
        resolved, requests = path.resolve(), self.folder.parent.resolve()
        others = resolved.is_relative_to(requests)
        if others and not resolved.is_relative_to(self.folder.resolve()):
            raise PipelineFailed(
                f"The output names the file {path.name}, which belongs to another request. Write "
                "files to the folder of the request, such as with Image.from_pil()."
            )
        if resolved.is_relative_to("/proc"):  # of the replica, whose environment has secrets
            raise PipelineFailed(
                f"The output names the file {path.name}, which is no file of a disk."
            )
        if not resolved.is_file():
            what = "no file, but a folder, pipe or device" if resolved.exists() else "not there"
            raise PipelineFailed(f"The output names the file {path.name}, which is {what}.")
        return resolved

    async def discard(self) -> None:
        """Delete the uploaded files. They will never be read."""
        for ticket in self._uploaded:
            await self._uploader.delete(ticket)

    async def remove(self) -> None:
        """Remove the folder with all files."""
        if self.folder.is_dir():  # most requests have no files, and a thread takes 0.1 ms
            await asyncio.to_thread(shutil.rmtree, self.folder, ignore_errors=True)


def _check_json(output: Mapping[str, Any]) -> None:
    """Raise ``PipelineFailed`` for an output that Python takes for JSON, and others do not."""
    if is_deep(output, MAX_DEPTH):
        raise PipelineFailed(
            f"The output has more than {MAX_DEPTH} lists and objects in each other."
        )
    if (place := place_of_no_number(output)) is not None:
        number = at(output, place)
        raise PipelineFailed(
            f"The output has the number {number} at {'.'.join(map(str, place))}, which JSON does "
            "not have. Return null or a text in its place."
        )
