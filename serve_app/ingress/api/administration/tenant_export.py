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
from serve_app.domain.request import Request
from serve_app.ingress.api.drafts import export_drafts
from serve_app.ingress.api.gallery.shares import export_shares
from serve_app.ingress.api.keys import export_keys
from serve_app.ingress.api.registered.weights import export_weights
from serve_app.ingress.api.workflows import export_workflows
from serve_app.ingress.http import query
from serve_app.ingress.http.archive import ZipStream
from serve_app.ingress.http.auth import authenticate, record_read
from serve_app.ingress.http.context import context_of
from serve_app.ingress.http.json_schema import Binary
from serve_app.ingress.http.openapi import DocumentedRoute, Operation, answer, in_path, in_query
from serve_app.ingress.resources.exports import (
    Export,
    ExportedTenant,
    Lines,
    export_table,
    file_name,
)
from serve_app.ingress.services.live_tenants import limits_in_force
from serve_app.ingress.services.services import Services, services_of
from serve_app.resources.declaration import Owner, Resource
from serve_app.resources.drafts import DRAFTS
from serve_app.resources.keys import KEYS
from serve_app.resources.shares import SHARES
from serve_app.resources.weights import WEIGHTS
from serve_app.resources.workflows import WORKFLOWS
from serve_app.settings import NO_LIMITS
from serve_app.tenants.scopes import TENANT_ADMIN

FORMAT = 1
PAGE = 100
PIECE_CHARACTERS = 256 * 1024
FIRST_DAY = datetime(2020, 1, 1, tzinfo=UTC)
MISSING = "missing.txt"
BY = (UsageGroup.DAY, UsageGroup.KEY, UsageGroup.ENDPOINT)
EXPORTS: Mapping[str, Export] = {
    DRAFTS.name: export_drafts,
    KEYS.name: export_keys,
    SHARES.name: export_shares,
    WEIGHTS.name: export_weights,
    WORKFLOWS.name: export_workflows,
}
"""Of the resources of tenants that have a storage of their own."""


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
        self._export = ExportedTenant(services, tenant, files)
        self._zip = ZipStream()

    async def chunks(self) -> AsyncGenerator[bytes]:
        parts = {
            "requests": self._requests(),
            "uploads": self._uploads(),
            **{
                resource.items: self._rows(resource)
                for resource in self._services.resources
                if resource.owner is not Owner.INSTALLATION
            },
            "usage": self._usage(),
            "webhooks": self._webhooks(),
            "batches": self._batches(),
            "batch_files": self._batch_files(),
            "access_rules": self._access_rules(),
            "comfyui_files": self._comfyui_files(),
            "tenant": self._about(),
            "audit": self._audit(),
        }
        for name, records in parts.items():
            written = self._zip.add_text(_lines(records), f"{name}.jsonl", self._at)
            async with aclosing(written) as chunks:
                async for chunk in chunks:
                    yield chunk
        missing: list[str] = []
        for key, (size, at) in self._export.files.items():
            name = file_name(key)
            stored = self._zip.add_file(self._services.files.storage, key, size, name, at)
            try:
                async with aclosing(stored) as chunks:  # also if the client leaves
                    async for chunk in chunks:
                        yield chunk
            except ArtifactNotFound:  # deleted by age, or by its tenant, during the export
                missing.append(f"{name}\n")
        files = self._export.with_files
        about = {"format": FORMAT, "tenant": self._tenant, "at": self._at, "files": files}
        texts = {"export.json": _text(about)}  # last: an archive without it is not whole
        if missing:
            texts = {MISSING: "".join(missing)} | texts
        yield self._zip.end(texts)

    async def _pages(self) -> AsyncIterator[Sequence[Request]]:
        before: str | None = None
        while page := await self._services.queue.page(
            self._tenant, until=self._at, before=before, limit=PAGE
        ):
            yield page
            before = page[-1].id

    async def _requests(self) -> Lines:
        gallery = self._services.queue.gallery
        async for page in self._pages():
            ids = [item.id for item in page]
            marked = await gallery.favourites_among(self._tenant, ids)
            shortened = await gallery.shortened_inputs(self._tenant, ids)
            for request in page:
                record = _request(request, self._export, favourite=request.id in marked)
                if request.id in shortened:
                    record["input"] = await gallery.whole_input(self._tenant, request.id)
                yield record

    async def _uploads(self) -> Lines:
        before: tuple[datetime, str] | None = None
        while page := await self._services.files.uploads.all_of(self._tenant, before, PAGE):
            for upload in page:
                file = self._export.add_file(upload.key, upload.size, upload.created_at)
                yield asdict(upload) | {"file": file}
            before = page[-1].created_at, page[-1].key

    async def _usage(self) -> Lines:
        end = self._at + timedelta(days=1)
        sums_query = SumsQuery(self._tenant, FIRST_DAY, end, BY)
        for totals in await self._services.queue.ledger.sums(sums_query):
            yield asdict(totals)

    async def _webhooks(self) -> Lines:
        before: str | None = None
        outbox = self._services.webhooks.outbox
        while page := await outbox.page(self._tenant, before=before, limit=PAGE):
            for delivery in page:
                yield asdict(delivery)
            before = page[-1].request_id

    async def _batches(self) -> Lines:
        after, at = None, None
        batches = self._services.queue.batches
        while page := await batches.page(self._tenant, after, PAGE, after_at=at):
            for batch in page:
                yield asdict(batch)
            after, at = page[-1].id, page[-1].created_at

    async def _batch_files(self) -> Lines:
        after, at = None, None
        files = self._services.queue.batches.files
        while page := await files.page(self._tenant, after=after, after_at=at, limit=PAGE):
            for file in page:
                yield asdict(file) | {"file": file_name(file.key)}
            after, at = page[-1].id, page[-1].created_at

    async def _access_rules(self) -> Lines:
        after = ""
        while page := await self._services.files.access.page(self._tenant, after, PAGE):
            for rule in page:
                yield {"id": rule.id, "default": rule.default, "users": dict(rule.users)}
            after = page[-1].id

    def _rows(self, resource: Resource[Any]) -> Lines:
        if resource.table:
            return export_table(self._export, resource)
        return EXPORTS[resource.name](self._export)

    async def _comfyui_files(self) -> Lines:
        """Settings and workflows of ComfyUI's page, which are texts."""
        book = self._services.comfyui.book
        for file in await book.files(self._tenant):
            content = await book.read(self._tenant, file.path) or b""
            yield asdict(file) | {"content": content.decode(errors="replace")}

    async def _about(self) -> Lines:
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

    async def _audit(self) -> Lines:
        operations = self._services.queue.operations
        await operations.seal_audit()
        before: int | None = None
        while page := await operations.audit(before, PAGE, self._tenant):
            for act in page:
                yield asdict(act)
            before = page[-1].id


async def _lines(records: Lines) -> AsyncGenerator[str]:
    lines: list[str] = []
    size = 0
    async for record in records:
        lines.append(_text(record) + "\n")
        size += len(lines[-1])
        if size >= PIECE_CHARACTERS:
            yield "".join(lines)
            lines, size = [], 0
    yield "".join(lines)


def _text(record: Mapping[str, Any]) -> str:
    return json.dumps(record, default=_plain)


def _plain(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime) else str(value)


def _request(request: Request, export: ExportedTenant, *, favourite: bool) -> dict[str, Any]:
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
                "file": file.key
                if is_elsewhere(file.key)
                else export.add_file(file.key, file.size, request.created_at),
                "media_type": file.media_type,
                "size": file.size,
                "sha256": file.sha256,
            }
            for file in _files_of(request)
        ],
    }


def _files_of(request: Request) -> Sequence[Artifact]:
    if request.outcome is None:
        return ()
    return (*request.outcome.artifacts, *request.outcome.thumbnails)


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
