"""Interface to the storage of a resource: one row each, by its owner and its key."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeVar

from serve_app.domain.audit.acts import Actor
from serve_app.resources.declaration import Resource

Row = TypeVar("Row")
Shown_co = TypeVar("Shown_co", covariant=True)


class Table(Protocol[Shown_co]):
    """Rows of a resource. A row is what the resource's model shows; a table may have more columns.
    ``changed_at`` and ``changed_by`` are written by each change."""

    async def list(self, owner: str) -> Sequence[Shown_co]:
        """Rows of an owner, by key."""
        ...

    async def values(
        self, column: str, owners: Sequence[str], keys: Sequence[str]
    ) -> Mapping[tuple[str, str], Any]:
        """Values of a column by owner and key."""
        ...

    async def put(
        self, owner: str, key: str, columns: Mapping[str, Any], actor: Actor
    ) -> Shown_co | None:
        """Insert a row, or replace the one with this key. None: the owner has ``max_per_owner``
        others."""
        ...

    async def delete(self, owner: str, key: str, actor: Actor) -> bool:
        """Delete a row. False: there is none."""
        ...


class Tables(Protocol):
    """Tables of all resources that have one."""

    def of(self, resource: Resource[Row]) -> Table[Row]: ...
