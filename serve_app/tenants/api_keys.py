"""API keys: their properties, and the interface to their storage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Annotated, Any, ClassVar, Literal, Protocol

from pydantic import Field

from serve_app.domain.audit.acts import Actor
from serve_app.domain.errors import TenantDisabled, Unauthenticated
from serve_app.tenants.credentials import Credential
from serve_app.tenants.scopes import API, SCOPES, Caller
from serve_app.tenants.sign_in import Person, Rights

DEFAULT_TENANT = "default"


@dataclass(frozen=True, slots=True)
class ApiKey:
    """API key, without its secret, which is not stored."""

    __pydantic_config__: ClassVar[Any] = {"json_schema_serialization_defaults_required": True}

    key_id: str
    tenant: str
    scopes: Annotated[
        frozenset[str], Field(json_schema_extra={"items": {"type": "string", "enum": [*SCOPES]}})
    ]
    alias: str
    created_at: datetime
    expires_at: datetime | None = None
    revoked_at: datetime | None = None
    replay_undelivered: bool = False
    endpoints: Annotated[tuple[str, ...], Field(description="The only ones; empty: all.")] = ()
    last_used_at: Annotated[datetime | None, Field(description="About a minute exact.")] = None
    successor: Annotated[str | None, Field(description="Key that its rotation made.")] = None
    person: Annotated[str | None, Field(description="Who signed in.")] = None
    kind: Annotated[
        Literal["person", "service"], Field(description="`person`: made by a sign-in.")
    ] = "service"
    state: Literal["valid", "expired", "revoked"] = "valid"  # as of ``at``

    def at(self, now: datetime) -> ApiKey:
        """The key with its state at a time."""
        if self.revoked_at is not None:
            return replace(self, state="revoked")
        expired = self.expires_at is not None and self.expires_at <= now
        return replace(self, state="expired" if expired else "valid")


LINK_NAME = "sign-in link"
"""Name of the keys of one-time links."""


def ended_link() -> Unauthenticated:
    """Refusal of a one-time link that has ended, whatever the reason."""
    return Unauthenticated(
        "This link was used already, or has expired. `darkroom keys link` prints another one."
    )


def tenant_disabled_error(tenant: str) -> TenantDisabled:
    """Refusal of a valid key, because its tenant is disabled."""
    return TenantDisabled(
        f"The tenant {tenant} is disabled. Ask the operator of this installation to enable it."
    )


class Keys(Protocol):
    """API keys of all tenants. The methods raise ``DatabaseUnavailable`` without a database, and
    those that tell a caller's identity ``TenantDisabled``."""

    async def authenticate(self, header: str | None) -> Caller:
        """Identity of the caller that sent this ``Authorization`` header.

        Raises ``Unauthenticated`` with the reason, which never reveals whether the id exists. A
        revocation takes effect within seconds.
        """
        ...

    async def key_id_of(self, header: str | None) -> str:
        """Id of the key that an ``Authorization`` header names, whether its secret is right or not;
        a short hash of what stands in its place if there is no such key, which may be a secret, and
        empty if it names none."""
        ...

    async def identity_of(self, key_id: str) -> Caller:
        """Identity of a key, for a token that names it.

        Raises ``Unauthenticated`` if the key was revoked or has expired.
        """
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
        endpoints: Sequence[str] = (),
        actor: Actor | None = None,
    ) -> Credential:
        """Create a key, and its tenant if it does not exist. Only this call returns the secret.

        ``actor``: the operator, for the audit log; None if no operator acts.

        ``replay_undelivered``: if the response to a submit is lost, the next submit of the same
        body gets it. ``endpoints``: patterns of the only endpoints that the key may use.
        """
        ...

    async def list(self, tenant: str) -> Sequence[ApiKey]:
        """All keys of a tenant, including revoked ones, oldest first."""
        ...

    async def find(self, key_id: str) -> ApiKey | None:
        """Properties of one key, of any tenant; None if it does not exist."""
        ...

    async def rotate(
        self, key_id: str, overlap_s: float, actor: Actor | None = None
    ) -> Credential | None:
        """Create a successor with the same rights, and let the key end after ``overlap_s``.

        The successor is valid as long as the key was when it was created. Returns None if the key
        does not exist, has ended, or was rotated before.
        """
        ...

    async def sign_in(
        self, person: Person, rights: Rights, expires_at: datetime, address: str
    ) -> Credential:
        """Create a key of a person who signed in, from ``address``. Old keys of the same person are
        forgotten some days after their end. The audit log has the provider's id of the person too:
        many providers let people change their names."""
        ...

    async def offer_link(self, actor: Actor, expires_at: datetime) -> str:
        """Token of a one-time link that gives a browser a key with the rights of the actor's."""
        ...

    async def take_link(self, token: str, address: str) -> Credential:
        """Create the key of a link, for a browser at ``address``. The link ends with it.

        The key expires when the one that offered the link does. Raises ``Unauthenticated`` if the
        link was used, or has expired, or its key is no longer valid.
        """
        ...

    async def revoke(self, key_id: str, actor: Actor | None = None) -> bool:
        """Revoke a key. Returns False if it does not exist.

        Revoking a key twice is not an error; the audit log has it once.
        """
        ...

    async def any(self) -> bool:
        """Return True if at least one key exists."""
        ...
