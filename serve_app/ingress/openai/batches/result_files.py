"""Output and error file of a batch."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

from serve_app.domain.batches.batch import BatchFile, EndedLine, StoredBatch
from serve_app.domain.errors import ArtifactNotFound, TooLarge, Unavailable
from serve_app.ingress.openai.batches import requests
from serve_app.ingress.openai.batches.files import OUTPUT, new_file_id
from serve_app.ingress.services.cpu_executor import in_cpu_thread
from serve_app.ingress.services.files import NewUpload
from serve_app.ingress.services.services import Services
from serve_app.ingress.submission.rendering import base64_of

log = logging.getLogger(__name__)

RESULTS_PAGE = 200


async def write_files(services: Services, batch: StoredBatch) -> bool:
    """Write both files of a batch whose lines have all ended, and end it. Each line is read once,
    so that memory stays bounded. False: another worker has ended the batch.

    After a crash, the files that were written before are deleted. ``StorageUnavailable``.
    """
    await services.files.check_disk_for_upload()
    batches = services.queue.batches
    output = error = None
    if batch.completed:
        output = await _write_result_file(services, batch, succeeded=True)
    if batch.failed:
        error = await _write_result_file(services, batch, succeeded=False)
    ids = None if output is None else output.id, None if error is None else error.id
    ended = await batches.work.finish(batch.id, *ids)
    known = await batches.work.find(batch.id)
    named = (known.output_file, known.error_file) if known else ids
    for file in await batches.files.written_by(batch.id):
        if file.id not in named:
            await services.files.uploads.discard(batch.tenant, file.key)
    return ended


async def _write_result_file(
    services: Services, batch: StoredBatch, *, succeeded: bool
) -> BatchFile | None:
    """File of a batch. One that is too large for storage gets URLs in place of base64, and if even
    that is too large, there is none: otherwise the batch would not end."""
    for inline in (True, False):
        try:
            return await _write(services, batch, succeeded=succeeded, inline=inline)
        except TooLarge as error:
            kind = "output" if succeeded else "error"
            log.warning("The %s file of the batch %s: %s", kind, batch.id, error.message)
    return None


async def _write(
    services: Services, batch: StoredBatch, *, succeeded: bool, inline: bool
) -> BatchFile:
    name = f"{batch.id}_{'output' if succeeded else 'error'}.jsonl"
    acl = requests.options_of(batch).acl
    new = NewUpload(batch.tenant, "application/octet-stream", name, batch.keep_outputs_s, acl)
    lines = _lines(services, batch, succeeded=succeeded, inline=inline)
    upload = await services.files.uploads.write(new, lines)
    file = await services.queue.batches.files.add(
        new_file_id(), batch.tenant, upload.key, name, OUTPUT, batch.id
    )
    if file is None:
        raise Unavailable(f"The file {name} was deleted while it was written; it is written again.")
    return file


async def _lines(
    services: Services, batch: StoredBatch, *, succeeded: bool, inline: bool
) -> AsyncIterator[bytes]:
    after, page = 0, RESULTS_PAGE
    while page == RESULTS_PAGE:
        results = await services.queue.batches.work.results(
            batch.id, succeeded=succeeded, after=after, most=RESULTS_PAGE
        )
        page = len(results)
        for result in results:
            after = result.result.line
            response = await _response_with_images(services, batch, result, inline=inline)
            yield await in_cpu_thread(_encode_line, batch.id, result, response)


async def _response_with_images(
    services: Services, batch: StoredBatch, ended: EndedLine, *, inline: bool
) -> Any:
    """Response of a line, with the base64 of its images if it was wanted, or their URLs unless
    ``inline``. An image that was deleted meanwhile has no base64."""
    response = ended.result.response
    if response is None or not ended.result.inlined:
        return response
    images = [{**item} for item in response["body"]["data"]]
    for image, key in zip(images, ended.result.inlined, strict=False):
        if not inline:
            image["url"] = services.files.access.url(batch.origin, key, batch.tenant)
            continue
        with suppress(ArtifactNotFound):
            size = await services.files.storage.size(key)
            image["b64_json"] = await base64_of(services.files.storage, key, size)
    return {**response, "body": {**response["body"], "data": images}}


def _encode_line(batch: str, ended: EndedLine, response: Any) -> bytes:
    line = {
        "id": f"batch_req_{batch.removeprefix('batch_')}_{ended.result.line}",
        "custom_id": ended.custom_id,
        "response": response,
        "error": ended.result.error,
    }
    return json.dumps(line, separators=(",", ":")).encode() + b"\n"
