"""Secrets by name, of tenants and of the installation, encrypted in the database."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated

from pydantic import Field

from serve_app.domain.audit.acts import Actor
from serve_app.domain.executors.secrets import INSTALLATION, Secret
from serve_app.domain.ports import Clock
from serve_app.resources.declaration import Owner, Resource
from serve_app.resources.table import Table
from serve_app.tenants.scopes import TENANT_ADMIN
from serve_app.tenants.seal import Seal

PURPOSE = b"secrets by name"
MAX_SECRETS = 100  # of one owner
KNOWN_FOR_S = 5.0
MAX_KNOWN = 1000  # owners


@dataclass(frozen=True, slots=True)
class SecretStatus:
    """A secret. Its value is never shown."""

    name: str
    changed_at: datetime
    changed_by: Annotated[str, Field(description="Id of an API key.")]


SECRETS = Resource(
    name="secret",
    path="/v1/secrets",
    model=SecretStatus,
    key="name",
    key_description="Capital letters, digits and _. Apps get it as a variable of this name.",
    scope=TENANT_ADMIN,
    owner=Owner.TENANT_OR_INSTALLATION,
    table="secrets",
    owner_column="owner",
    max_per_owner=MAX_SECRETS,
    about="keys and tokens that endpoints use by name",
    listed="by name, without their values",
    deletion="Endpoints that need it fail from then on.",
    columns=("name", "changed_at", "changed_by"),
)


class SecretBook:
    """Secrets by owner and name. An owner is a tenant, or ``INSTALLATION``. The audit log never has
    a value."""

    def __init__(self, table: Table[SecretStatus], secret: bytes) -> None:
        self._table = table
        self._seal = Seal(secret, PURPOSE)

    async def list(self, owner: str) -> Sequence[SecretStatus]:
        return await self._table.list(owner)

    async def read(self, tenant: str, names: Sequence[str]) -> Sequence[Secret]:
        """Secrets of these names that the tenant or the installation has. Of one name, the tenant's
        is first. ``Unavailable``: one cannot be decrypted."""
        owners = [*dict.fromkeys((tenant, INSTALLATION))]
        sealed = await self._table.values("sealed", owners, names)
        return [
            Secret(name, owner, self._unseal(owner, name, bytes(sealed[owner, name])))
            for name in sorted(set(names))
            for owner in owners
            if (owner, name) in sealed
        ]

    async def put(self, owner: str, name: str, value: str, actor: Actor) -> SecretStatus | None:
        """Set a secret. None: the owner has ``MAX_SECRETS`` others."""
        sealed = self._seal.seal(_associated_data(owner, name), value)
        return await self._table.put(owner, name, {"sealed": sealed}, actor)

    def _unseal(self, owner: str, name: str, sealed: bytes) -> str:
        return self._seal.open(_associated_data(owner, name), sealed, f"The secret {name}")


def _associated_data(owner: str, name: str) -> str:
    """What a sealed value belongs to. No name contains a slash."""
    return f"{name}/{owner}"


class KnownSecrets:
    """Names of secrets that are set, as they were at most ``KNOWN_FOR_S`` seconds ago. That one is
    missing is always looked up, so a new one is in force at once."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[float, frozenset[str]]] = {}

    async def has(self, book: SecretBook, owner: str, name: str, clock: Clock) -> bool:
        """Check if an owner has a secret."""
        now = clock.monotonic()
        until, names = self._known.get(owner, (0.0, frozenset[str]()))
        if now < until and name in names:
            return True
        stored_names = frozenset(secret.name for secret in await book.list(owner))
        if len(self._known) >= MAX_KNOWN:
            self._known.clear()
        self._known[owner] = now + KNOWN_FOR_S, stored_names
        return name in stored_names
