"""Who may call, and on whose account."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from serve_app.tenants.credential import Credential

API, PRIORITY, ADMIN = "api", "priority", "admin"
SCOPES = frozenset({API, PRIORITY, ADMIN})
"""``api``: submit, read and cancel the tenant's requests. ``priority``: submit with high priority.
``admin``: that too, the installation's figures, and keys."""

DEFAULT_TENANT = "default"


@dataclass(frozen=True, slots=True)
class Identity:
    """A caller whose key was found good."""

    key_id: str
    tenant: str
    scopes: frozenset[str]
    replay_undelivered: bool = False


@dataclass(frozen=True, slots=True)
class KeyInfo:
    """A key as it is listed: everything but the secret, which nobody has but its owner."""

    id: str
    tenant: str
    scopes: frozenset[str]
    name: str
    created_at: datetime
    expires_at: datetime | None = None
    revoked_at: datetime | None = None
    replay_undelivered: bool = False


class Keys(Protocol):
    """API keys of all tenants. ``DatabaseUnavailable`` when they cannot be looked up."""

    async def authenticate(self, header: str | None) -> Identity:
        """Who sent this ``Authorization`` header. ``Unauthenticated`` says what is wrong, but never
        whether the id exists. A revocation takes effect within seconds."""
        ...

    async def create(
        self,
        tenant: str,
        *,
        name: str = "",
        scopes: frozenset[str] = frozenset({API}),
        expires_at: datetime | None = None,
        credential: Credential | None = None,
        replay_undelivered: bool = False,
        actor: str | None = None,
    ) -> Credential:
        """Make a key, and its tenant if new. The secret is given out here and never again.

        ``actor``: the id of the key by which it is done, for the audit; None: nobody does it by
        hand.

        ``replay_undelivered``: when the answer to a submit is lost, the next submit of the same
        body gets it.
        """
        ...

    async def list(self, tenant: str) -> Sequence[KeyInfo]:
        """All of a tenant's, oldest first, the revoked ones too."""
        ...

    async def revoke(self, key_id: str, actor: str | None = None) -> bool:
        """False when there is no such key. Revoking twice is no error, and once in the audit."""
        ...

    async def any(self) -> bool:
        """Whether there is a key at all."""
        ...
