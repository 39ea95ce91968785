"""``GET /v1/tenants/{tenant}/export``: everything that is stored about a tenant, as a zip archive.

It is written while it is sent, from pages of the tables, so its size does not matter.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import Response, StreamingResponse

from serve_app.domain.artifact import Artifact, is_elsewhere
from serve_app.domain.billing.sums import SumsQuery, UsageGroup
from serve_app.domain.errors import ArtifactNotFound
from serve_app.domain.media.draft import StoredDraft
from serve_app.domain.request import Request
from serve_app.domain.upload import KeptFile
from serve_app.ingress.http import query
from serve_app.ingress.http.archive import ZipStream
from serve_app.ingress.http.auth import authenticate, record_read
from serve_app.ingress.http.context import context_of
from serve_app.ingress.http.json_schema import Binary
from serve_app.ingress.http.openapi import DocumentedRoute, Operation, answer, in_path, in_query
from serve_app.ingress.services.live_tenants import limits_in_force
from serve_app.ingress.services.services import Services, services_of
from serve_app.registry.records import TenantWeights
from serve_app.resources.declaration import Resource, plain
from serve_app.settings import NO_LIMITS
from serve_app.tenants.scopes import TENANT_ADMIN

FORMAT = 1
PAGE = 100
MOST_WEIGHTS = 10_000
"""Registered weights that are listed. Quotas of bytes allow far fewer."""
FIRST_DAY = datetime(2020, 1, 1, tzinfo=UTC)
MISSING = "missing.txt"
BY = (UsageGroup.DAY, UsageGroup.KEY, UsageGroup.ENDPOINT)


async def export_tenant(request: HttpRequest) -> Response:
    """Export a tenant: ``?files=false`` leaves out the contents of files."""
    context_of(request).route = "v1.tenant.export"
    caller = await authenticate(request)
    tenant: str = request.path_params["tenant"]
    caller.require_tenant(tenant, "Exports")
    services = services_of(request)
    await services.identity.tenants.find(tenant)
    files = query.yes_no(request, "files", default=True)
    await record_read(request, caller, tenant)
    headers = {
        "content-disposition": f'attachment; filename="darkroom-{tenant}.zip"',
        "cache-control": "private, no-store",
        "x-content-type-options": "nosniff",
    }
    archive = TenantArchive(services, tenant, services.clock.now(), files=files)
    return StreamingResponse(archive.chunks(), 200, headers, media_type="application/zip")


class TenantArchive:
    """Archive of a tenant at a time: requests that are submitted later are left out."""

    def __init__(self, services: Services, tenant: str, at: datetime, *, files: bool) -> None:
        self._services = services
        self._tenant = tenant
        self._at = at
        self._files = files
        self._zip = ZipStream()
        self._missing: list[str] = []

    async def chunks(self) -> AsyncGenerator[bytes]:
        parts = {
            "requests": self._requests(),
            "uploads": self._uploads(),
            "drafts": self._drafts(),
            "shares": self._shares(),
            "usage": self._usage(),
            "keys": self._keys(),
            "webhooks": self._webhooks(),
            "weights": self._weights(),
            "workflows": self._workflows(),
            "batches": self._batches(),
            "batch_files": self._batch_files(),
            "access_rules": self._access_rules(),
            **{
                resource.items: self._rows(resource)
                for resource in self._services.resources
                if resource.table
            },
            "comfyui_files": self._comfyui_files(),
            "tenant": self._about(),
            "audit": self._audit(),
        }
        for name, records in parts.items():
            written = self._zip.add_text(_lines(records), f"{name}.jsonl", self._at)
            async with aclosing(written) as chunks:
                async for chunk in chunks:
                    yield chunk
        if self._files:
            async with aclosing(self._contents()) as chunks:
                async for chunk in chunks:
                    yield chunk
        about = {"format": FORMAT, "tenant": self._tenant, "at": self._at, "files": self._files}
        texts = {"export.json": _text(about)}  # last: an archive without it is not whole
        if self._missing:
            texts = {MISSING: "".join(f"{file_name}\n" for file_name in self._missing)} | texts
        yield self._zip.end(texts)

    async def _contents(self) -> AsyncGenerator[bytes]:
        async for request in self._stored_requests():
            for file in _files_of(request):
                if is_elsewhere(file.key):
                    continue
                stored = self._content(file.key, file.size, request.created_at)
                async with aclosing(stored) as chunks:
                    async for chunk in chunks:
                        yield chunk
        async for file in self._stored_once():
            stored = self._content(file.key, file.size, file.created_at)
            async with aclosing(stored) as chunks:
                async for chunk in chunks:
                    yield chunk
        for key, size in (await self._weight_files()).items():
            stored = self._content(key, size, self._at)
            async with aclosing(stored) as chunks:
                async for chunk in chunks:
                    yield chunk

    async def _content(self, key: str, size: int, at: datetime) -> AsyncGenerator[bytes]:
        storage = self._services.files.storage
        stored = self._zip.add_file(storage, key, size, _name(key), at)
        try:
            async with aclosing(stored) as chunks:  # also if the client leaves
                async for chunk in chunks:
                    yield chunk
        except ArtifactNotFound:  # deleted by age, or by its tenant, during the export
            self._missing.append(_name(key))

    async def _pages(self) -> AsyncIterator[Sequence[Request]]:
        before: str | None = None
        while page := await self._services.queue.page(
            self._tenant, until=self._at, before=before, limit=PAGE
        ):
            yield page
            before = page[-1].id

    async def _stored_requests(self) -> AsyncIterator[Request]:
        async for page in self._pages():
            for request in page:
                yield request

    async def _stored_once(self) -> AsyncIterator[KeptFile | StoredDraft]:
        """Files that are no outputs."""
        async for upload in self._stored_uploads():
            yield upload
        async for draft in self._stored_drafts():
            yield draft

    async def _stored_drafts(self) -> AsyncIterator[StoredDraft]:
        before: tuple[datetime, str] | None = None
        drafts = self._services.queue.drafts
        while page := await drafts.newest(self._tenant, PAGE, before):
            for draft in page:
                yield draft
            before = page[-1].created_at, page[-1].id

    async def _stored_uploads(self) -> AsyncIterator[KeptFile]:
        before: tuple[datetime, str] | None = None
        while page := await self._services.files.uploads.all_of(self._tenant, before, PAGE):
            for upload in page:
                yield upload
            before = page[-1].created_at, page[-1].key

    async def _requests(self) -> AsyncIterator[Mapping[str, Any]]:
        gallery = self._services.queue.gallery
        async for page in self._pages():
            marked = await gallery.favourites_among(self._tenant, [item.id for item in page])
            for request in page:
                yield _request(request, favourite=request.id in marked)

    async def _uploads(self) -> AsyncIterator[Mapping[str, Any]]:
        async for upload in self._stored_uploads():
            yield asdict(upload) | {"file": _name(upload.key)}

    async def _drafts(self) -> AsyncIterator[Mapping[str, Any]]:
        async for draft in self._stored_drafts():
            yield asdict(draft) | {"file": _name(draft.key)}

    async def _shares(self) -> AsyncIterator[Mapping[str, Any]]:
        for share in await self._services.queue.gallery.shares(self._tenant):
            fields = asdict(share)
            yield {"id": fields.pop("share_id"), **fields}

    async def _usage(self) -> AsyncIterator[Mapping[str, Any]]:
        end = self._at + timedelta(days=1)
        sums_query = SumsQuery(self._tenant, FIRST_DAY, end, BY)
        for totals in await self._services.queue.ledger.sums(sums_query):
            yield asdict(totals)

    async def _keys(self) -> AsyncIterator[Mapping[str, Any]]:
        for key in await self._services.identity.keys.list(self._tenant):
            yield plain(key.at(self._at))

    async def _webhooks(self) -> AsyncIterator[Mapping[str, Any]]:
        before: str | None = None
        outbox = self._services.webhooks.outbox
        while page := await outbox.page(self._tenant, before=before, limit=PAGE):
            for delivery in page:
                yield asdict(delivery)
            before = page[-1].request_id

    async def _own_weights(self) -> Sequence[TenantWeights]:
        page = await self._services.weights.page(self._tenant, MOST_WEIGHTS)
        return [weights for weights in page if weights.tenant == self._tenant]

    async def _weight_files(self) -> Mapping[str, int]:
        """Sizes of stored weights by their keys. Those of a base model are not stored again."""
        files = [file for weights in await self._own_weights() for file in weights.files]
        keys = {
            weights_file: await self._services.weights.key_of(weights_file.digest)
            for weights_file in files
        }
        return {key: weights_file.size for weights_file, key in keys.items() if key is not None}

    async def _weights(self) -> AsyncIterator[Mapping[str, Any]]:
        for weights in await self._own_weights():
            keys = [await self._services.weights.key_of(file.digest) for file in weights.files]
            names = [_name(key) if key is not None else None for key in keys]
            files = [
                asdict(file) | {"file": name}
                for file, name in zip(weights.files, names, strict=True)
            ]
            yield asdict(weights) | {"files": files}

    async def _workflows(self) -> AsyncIterator[Mapping[str, Any]]:
        for workflow in await self._services.queue.workflows.definitions.page(self._tenant):
            if workflow.tenant == self._tenant:
                yield asdict(workflow)

    async def _batches(self) -> AsyncIterator[Mapping[str, Any]]:
        after: str | None = None
        batches = self._services.queue.batches
        while page := await batches.page(self._tenant, after, PAGE):
            for batch in page:
                yield asdict(batch)
            after = page[-1].id

    async def _batch_files(self) -> AsyncIterator[Mapping[str, Any]]:
        after: str | None = None
        files = self._services.queue.batches.files
        while page := await files.page(self._tenant, after=after, limit=PAGE):
            for file in page:
                yield asdict(file) | {"file": _name(file.key)}
            after = page[-1].id

    async def _access_rules(self) -> AsyncIterator[Mapping[str, Any]]:
        after = ""
        while page := await self._services.files.access.page(self._tenant, after, PAGE):
            for rule in page:
                yield {"id": rule.id, "default": rule.default, "users": dict(rule.users)}
            after = page[-1].id

    async def _rows(self, resource: Resource[Any]) -> AsyncIterator[Mapping[str, Any]]:
        """What lists show. Of secrets, names only."""
        for row in await self._services.tables.of(resource).list(self._tenant):
            yield asdict(row)

    async def _comfyui_files(self) -> AsyncIterator[Mapping[str, Any]]:
        """Settings and workflows of ComfyUI's page, which are texts."""
        book = self._services.comfyui.book
        for file in await book.files(self._tenant):
            content = await book.read(self._tenant, file.path) or b""
            yield asdict(file) | {"content": content.decode(errors="replace")}

    async def _about(self) -> AsyncIterator[Mapping[str, Any]]:
        """The tenant itself, with its limits and its budget."""
        services = self._services
        info = await services.identity.tenants.stored.find(self._tenant)
        if info is None:  # it was deleted during the export
            return
        own = services.config.queue.tenant_limits.get(self._tenant, NO_LIMITS)
        in_force = limits_in_force(info, services.file_config, services.config)
        yield asdict(info) | {
            "limits": own.model_dump(mode="json", exclude_none=True),
            "limits_in_force": {name: asdict(limit) for name, limit in in_force.items()},
        }

    async def _audit(self) -> AsyncIterator[Mapping[str, Any]]:
        operations = self._services.queue.operations
        await operations.seal_audit()
        before: int | None = None
        while page := await operations.audit(before, PAGE, self._tenant):
            for act in page:
                yield asdict(act)
            before = page[-1].id


async def _lines(records: AsyncIterator[Mapping[str, Any]]) -> AsyncGenerator[str]:
    lines: list[str] = []
    async for record in records:
        lines.append(_text(record) + "\n")
        if len(lines) >= PAGE:
            yield "".join(lines)
            lines = []
    yield "".join(lines)


def _text(record: Mapping[str, Any]) -> str:
    return json.dumps(record, default=_plain)


def _plain(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime) else str(value)


def _request(request: Request, *, favourite: bool) -> dict[str, Any]:
    outcome = request.outcome
    failure = outcome.failure if outcome else None
    return {
        "id": request.id,
        "endpoint": request.endpoint,
        "state": request.state,
        "priority": request.priority.name.lower(),
        "attempts": request.attempt,
        "created_at": request.created_at,
        "started_at": request.started_at,
        "finished_at": request.finished_at,
        "input": request.input,
        "output": outcome.output if outcome else None,
        "error": asdict(failure) if failure else None,
        "usage": asdict(outcome.usage) if outcome else None,
        "favourite": favourite,
        "files": [
            {
                "file": file.key if is_elsewhere(file.key) else _name(file.key),
                "media_type": file.media_type,
                "size": file.size,
                "sha256": file.sha256,
            }
            for file in _files_of(request)
        ],
    }


def _files_of(request: Request) -> Sequence[Artifact]:
    """Files that a request made itself: one that shares an outcome names those of the other."""
    if request.outcome is None or request.reuses is not None:
        return ()
    return (*request.outcome.artifacts, *request.outcome.thumbnails)


def _name(key: str) -> str:
    return f"files/{key}"


EXPORT = Operation(
    "exportTenant",
    "Export everything that is stored about a tenant as a zip archive. Needs the scope "
    "`tenant-admin` for the own tenant, and `operator` for another",
    {
        200: answer(
            "JSON lines of requests, uploads, drafts, share links, usage, keys, webhooks, weights, "
            "workflows, batches, access rules, names of secrets, files of ComfyUI's page, limits "
            "and acts, and the files. `export.json` is its last file.",
            Binary,
            "application/zip",
        )
    },
    errors=(403, 404, 422),
    parameters=(
        in_path("tenant", "Id of the tenant."),
        in_query("files", "`false` leaves out the contents of files.", bool),
    ),
)

ROUTES = [
    DocumentedRoute("/v1/tenants/{tenant}/export", export_tenant, {"GET": EXPORT}, TENANT_ADMIN)
]
