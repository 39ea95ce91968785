"""``/v1/storage``: what is stored, for whom, where, and how long."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field
from typing_extensions import TypedDict

from serve_app.domain.artifact import StoredKind, StoredSum
from serve_app.ingress.http.json_schema import Time
from serve_app.ingress.resources.calls import Call, JsonCalls
from serve_app.ingress.services.services import Services
from serve_app.settings import Config
from serve_app.tenants.scopes import OPERATOR

DAY_S = 86_400.0


class StoredAmount(TypedDict):
    files: int
    bytes: int


class StoredOfKind(StoredAmount):
    """Files of one kind. `other`: results that are no image, video or audio."""

    kind: StoredKind


class StoredOfTenant(StoredAmount):
    tenant: Annotated[str, Field(description="Empty: weights, which tenants share.")]
    kinds: list[StoredOfKind]


class DiskSpace(TypedDict):
    free_bytes: int
    bytes: int


class StorageLocation(TypedDict):
    """Place of files."""

    id: Annotated[str, Field(description="Empty: the installation's own.")]
    type: Literal["directory", "s3"]
    place: Annotated[
        str | None, Field(description="Folder or bucket. Null: see the file of locations.")
    ]
    tenants: Annotated[
        list[str], Field(description="Whose new files go there; of the own one: none are named.")
    ]


class KeptTimes(TypedDict):
    """Days until data is deleted. Null: it is kept. Tenants can have their own."""

    requests: float | None
    prompts: float | None
    files: float | None
    drafts: float


class StorageReport(TypedDict):
    """Stored files by the records of the database, without snapshots and open uploads."""

    measured_at: Time
    kinds: list[StoredOfKind]
    tenants: Annotated[list[StoredOfTenant], Field(description="The largest first.")]
    unwanted: Annotated[int, Field(description="Files that nothing needs and that are deleted.")]
    overdue: Annotated[int, Field(description="Those that should be deleted by now.")]
    disk: Annotated[
        DiskSpace | None,
        Field(description="Disk of the data directory of the machine that answers."),
    ]
    locations: list[StorageLocation]
    kept_days: KeptTimes


calls = JsonCalls()
ROUTES = calls.routes


@calls.call(
    "/v1/storage",
    "getStorage",
    "Show what is stored by kind and tenant, where, and how long",
    OPERATOR,
)
async def storage(call: Call) -> StorageReport:
    """Sums of at most a minute ago."""
    services = call.services
    use = await services.queue.stored_files.use()
    return {
        "measured_at": use.measured_at.isoformat(),
        "kinds": _kinds(use.sums),
        "tenants": _tenants(use.sums),
        "unwanted": use.unwanted,
        "overdue": use.overdue,
        "disk": await asyncio.to_thread(_disk, services.config.server.data_dir),
        "locations": _locations(services),
        "kept_days": _retention_times(services.config),
    }


def _kinds(sums: Iterable[StoredSum]) -> list[StoredOfKind]:
    kinds: dict[StoredKind, StoredOfKind] = {}
    for stored_sum in sums:
        of_kind = kinds.setdefault(
            stored_sum.kind, {"kind": stored_sum.kind, "files": 0, "bytes": 0}
        )
        of_kind["files"] += stored_sum.files
        of_kind["bytes"] += stored_sum.size
    return sorted(kinds.values(), key=lambda entry: -entry["bytes"])


def _tenants(sums: Iterable[StoredSum]) -> list[StoredOfTenant]:
    by_tenant: dict[str, list[StoredSum]] = {}
    for stored_sum in sums:
        by_tenant.setdefault(stored_sum.tenant, []).append(stored_sum)
    tenants: list[StoredOfTenant] = [
        {
            "tenant": tenant,
            "files": sum(kind_sum.files for kind_sum in own),
            "bytes": sum(kind_sum.size for kind_sum in own),
            "kinds": _kinds(own),
        }
        for tenant, own in by_tenant.items()
    ]
    return sorted(tenants, key=lambda entry: (-entry["bytes"], entry["tenant"]))


def _disk(directory: Path) -> DiskSpace | None:
    try:
        usage = shutil.disk_usage(directory)
    except OSError:
        return None  # the check of the storage reports it
    return {"free_bytes": usage.free, "bytes": usage.total}


def _locations(services: Services) -> list[StorageLocation]:
    settings = services.config.storage
    bucket = settings.s3_bucket
    own: StorageLocation = {
        "id": "",
        "type": "s3" if bucket else "directory",
        "place": bucket or str(services.config.server.data_dir / "artifacts"),
        "tenants": [],
    }
    limits = services.config.queue.tenant_limits
    others: list[StorageLocation] = [
        {
            "id": id_,
            "type": "s3",
            "place": None,
            "tenants": sorted(name for name, limit in limits.items() if limit.storage == id_),
        }
        for id_ in sorted(services.identity.tenants.locations)
    ]
    return [own, *others]


def _retention_times(config: Config) -> KeptTimes:
    queue = config.queue
    files, requests = queue.file_retention_days, queue.retention_days
    return {
        "requests": requests,
        "prompts": queue.prompt_retention_days or requests,
        "files": files or requests,
        "drafts": config.limits.keep_drafts_s / DAY_S,
    }
