"""Tables of resources, in memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Generic, TypeVar

from serve_app.domain.audit.acts import Actor
from serve_app.resources.declaration import Resource

Row = TypeVar("Row")
Note = Callable[[Actor, str, str, Mapping[str, Any]], None]


class FakeTable(Generic[Row]):
    """Implements ``Table``."""

    def __init__(self, resource: Resource[Row], note: Note = lambda *_: None) -> None:
        self._resource = resource
        self._rows: dict[tuple[str, str], dict[str, Any]] = {}
        self._note = note

    async def list(self, owner: str) -> Sequence[Row]:
        return [self._shown(row) for (of, _), row in sorted(self._rows.items()) if of == owner]

    async def values(
        self, column: str, owners: Sequence[str], keys: Sequence[str]
    ) -> Mapping[tuple[str, str], Any]:
        return {
            (owner, key): row[column]
            for (owner, key), row in self._rows.items()
            if owner in owners and key in keys
        }

    async def put(
        self, owner: str, key: str, columns: Mapping[str, Any], actor: Actor
    ) -> Row | None:
        others = sum(of == owner and other != key for of, other in self._rows)
        if others >= self._resource.max_per_owner:
            return None
        row = {
            self._resource.owner_column: owner,
            self._resource.key: key,
            "changed_at": datetime.now(UTC),
            "changed_by": actor.key_id,
            **columns,
        }
        self._rows[owner, key] = row
        self._note(actor, f"{self._resource.name}.set", key, {"tenant": owner})
        return self._shown(row)

    async def delete(self, owner: str, key: str, actor: Actor) -> bool:
        if self._rows.pop((owner, key), None) is None:
            return False
        self._note(actor, f"{self._resource.name}.delete", key, {"tenant": owner})
        return True

    def _shown(self, row: Mapping[str, Any]) -> Row:
        return self._resource.model(*(row[name] for name in self._resource.fields))


class FakeTables:
    """Implements ``Tables``."""

    def __init__(self, note: Note) -> None:
        self._note = note
        self._tables: dict[str, FakeTable[Any]] = {}

    def of(self, resource: Resource[Row]) -> FakeTable[Row]:
        return self._tables.setdefault(resource.table, FakeTable(resource, self._note))
