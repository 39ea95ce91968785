"""LoRA files that a tenant has registered or uploaded, with what they say about themselves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Annotated

from pydantic import Field
from typing_extensions import TypedDict

from serve_app.domain.errors import ArtifactNotFound
from serve_app.domain.lora import LoraMetadata, json_object
from serve_app.domain.ports import Storage
from serve_app.domain.upload import KeptFile
from serve_app.ingress.http import query
from serve_app.ingress.http.errors import iso
from serve_app.ingress.http.json_schema import Time
from serve_app.ingress.http.openapi import in_query
from serve_app.ingress.http.origin import file_url, origin_of
from serve_app.ingress.resources.calls import Call, JsonCalls
from serve_app.ingress.services.cpu_executor import in_cpu_thread
from serve_app.ingress.services.files import Files
from serve_app.registry.records import TenantWeights, WeightState
from serve_app.storage.keys import SAFETENSORS
from serve_app.tenants.scopes import FILES, Caller

MAX_PAGE = 100
MAX_REGISTERED = 1000  # weights that are looked through for LoRAs, the latest first
MAX_UPLOADS = 2000  # uploads, likewise
UPLOADS_PAGE = 200

LENGTH_BYTES = 8  # at the start of a safetensors file: the size of the JSON header that follows
FIRST_BYTES = 64 * 1024
MAX_HEADER_BYTES = 2 * 1024 * 1024
MAX_READS = 4  # files that one call reads at the same time


class UploadedLora(TypedDict):
    """Registered LoRA, or uploaded LoRA file."""

    path: Annotated[str, Field(description="The `path` of a LoRA in a request.")]
    name: str
    size: int
    created_at: Time
    expires_at: Time | None
    trigger_words: Annotated[
        list[str],
        Field(
            description="Words for the prompt: the file's `modelspec.trigger_phrase`, or else the "
            "most frequent captions of its training (`ss_tag_frequency`)."
        ),
    ]
    base_model: Annotated[
        str | None, Field(description="The model it was trained on, as the file names it.")
    ]


class UploadedLoras(TypedDict):
    loras: list[UploadedLora]


calls = JsonCalls()
ROUTES = calls.routes


@calls.call(
    "/v1/loras",
    "listLoras",
    "List the LoRAs that the tenant has registered, then those that it has uploaded",
    FILES,
    errors=(422,),
    parameters=(
        in_query("q", "Only LoRAs whose names have all these words, or words with them."),
        in_query("limit", "1 to 100; default 50.", int),
    ),
)
async def list_loras(call: Call) -> UploadedLoras:
    """The latest first of each; with ``q``, only those whose names have its words."""
    request, caller = call.request, call.caller
    limit = query.page_size(request, default=50, most=MAX_PAGE)
    words = (query.text(request, "q") or "").casefold().split()
    files, origin = call.services.files, origin_of(request)
    uploads = [upload async for upload in _uploads(files, caller, limit, words)]
    slots = asyncio.Semaphore(MAX_READS)
    described = await asyncio.gather(
        *(_read_metadata(files.storage, upload, slots) for upload in uploads)
    )
    loras = [_lora(*pair, origin) for pair in zip(uploads, described, strict=True)]
    page = await call.services.weights.page(caller.tenant, MAX_REGISTERED)
    registered = [
        _lora_of_weights(weights, caller.tenant)
        for weights in page
        if _is_lora(weights) and _has_words(weights.name, words)
    ]
    loras = [*registered, *loras][:limit]
    return {"loras": loras}


async def _uploads(
    files: Files, caller: Caller, limit: int, words: Sequence[str]
) -> AsyncIterator[KeptFile]:
    """The latest ``limit`` uploads of the tenant that are safetensors files with these words in
    their names."""
    before, count = None, 0
    for _ in range(MAX_UPLOADS // UPLOADS_PAGE):
        page = await files.uploads.page(caller, before, UPLOADS_PAGE)
        for upload in page:
            if upload.media_type == SAFETENSORS and _has_words(_name(upload), words):
                yield upload
                count += 1
            if count == limit:
                return
        if len(page) < UPLOADS_PAGE:
            return
        before = (page[-1].created_at, page[-1].key)


async def _read_metadata(
    storage: Storage, file: KeptFile, slots: asyncio.Semaphore
) -> LoraMetadata:
    """Metadata of the file; empty for a file that has none, or is being deleted."""
    async with slots:
        try:
            header = await _header(storage, file)
        except ArtifactNotFound:
            return LoraMetadata()
        # In the slot too, so that only a few headers are in memory at a time.
        return await in_cpu_thread(lora_metadata, header)


async def _header(storage: Storage, file: KeptFile) -> bytes:
    """JSON header of a safetensors file; empty if it is not one, or is unusually long."""
    start = await _bytes(storage, file.key, 0, min(file.size, FIRST_BYTES))
    length = int.from_bytes(start[:LENGTH_BYTES], "little")
    end = LENGTH_BYTES + length
    if length > MAX_HEADER_BYTES or end > file.size:
        return b""
    if end > len(start):
        start += await _bytes(storage, file.key, len(start), end)
    return start[LENGTH_BYTES:end]


async def _bytes(storage: Storage, key: str, start: int, end: int) -> bytes:
    return b"".join([chunk async for chunk in storage.read(key, start, end)])


def lora_metadata(header: bytes) -> LoraMetadata:
    """Metadata in the JSON ``header`` of a safetensors file. The header is from a stranger: what
    cannot be read is left out."""
    metadata = json_object(header).get("__metadata__")
    return LoraMetadata.of(metadata) if isinstance(metadata, dict) else LoraMetadata()


def _has_words(name: str, words: Sequence[str]) -> bool:
    folded = name.casefold()
    return all(word in folded for word in words)


def _name(file: KeptFile) -> str:
    return file.key.rpartition("/")[2].removesuffix(".safetensors")


def _is_lora(weights: TenantWeights) -> bool:
    return weights.kind == "lora" and weights.state is WeightState.READY


def _lora_of_weights(weights: TenantWeights, tenant: str) -> UploadedLora:
    own = weights.tenant == tenant
    words = weights.facts.get("trigger_words")
    if words is None:  # registered by an earlier version
        words = LoraMetadata.of(weights.facts.get("metadata", {})).trigger_words
    return {
        "path": f"weights:{weights.name}" if own else f"weights:{weights.tenant}/{weights.name}",
        "name": weights.name,
        "size": weights.files[0].size,
        "created_at": weights.created_at.isoformat(),
        "expires_at": None,
        "trigger_words": list(words),
        "base_model": weights.base,
    }


def _lora(file: KeptFile, metadata: LoraMetadata, origin: str) -> UploadedLora:
    return {
        "path": file_url(origin, file.key),
        "name": _name(file),
        "size": file.size,
        "created_at": file.created_at.isoformat(),
        "expires_at": iso(file.expires_at),
        "trigger_words": list(metadata.trigger_words),
        "base_model": metadata.base_model,
    }
