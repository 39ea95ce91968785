"""What the export of a tenant has of a resource: the rows of its table, or what a function beside
its calls yields."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

from serve_app.ingress.services.services import Services
from serve_app.resources.declaration import Resource

Lines = AsyncIterator[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class ExportedTenant:
    """Tenant that is exported, and the stored files that its lines name: their contents follow."""

    services: Services
    tenant: str
    with_files: bool
    files: dict[str, tuple[int, datetime]] = field(default_factory=dict)  # key → size, time

    def add_file(self, key: str, size: int, at: datetime) -> str:
        """Name of a file in the archive."""
        if self.with_files:
            self.files[key] = size, at
        return file_name(key)


Export = Callable[[ExportedTenant], Lines]


def file_name(key: str) -> str:
    return f"files/{key}"


async def export_table(export: ExportedTenant, resource: Resource[Any]) -> Lines:
    """What lists show. Of secrets, names only."""
    for row in await export.services.tables.of(resource).list(export.tenant):
        yield asdict(row)
