"""Access rules of private files: who may read them besides their tenant."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import Protocol

from serve_app.domain.audit.acts import Actor


class AccessDecision(StrEnum):
    """What a reader gets. The values are fal's."""

    ALLOW = "allow"
    FORBID = "forbid"  # 403
    HIDE = "hide"  # 404, as if there was no file


OUTPUTS = "r."
"""Beginning of the ids of rules for files of requests. No other id has a dot."""


@dataclass(frozen=True, slots=True)
class FileAccess:
    """Access rules of files. Immutable: equal rules of a tenant have one id, and all its files with
    these rules have the id in their keys."""

    tenant: str  # owner; may always read
    default: AccessDecision
    users: Mapping[str, AccessDecision] = field(default_factory=dict[str, AccessDecision])
    """Decisions for other tenants, by their ids."""
    keyed_id: str = field(default="", compare=False)
    """Id that only this installation can compute; see ``with_keyed_id``. Empty: it is older."""

    def with_keyed_id(self, secret: bytes, *, outputs: bool = False) -> FileAccess:
        """The same rules with an id that says nothing of them to those who lack the secret: every
        URL of a file has it, and names of tenants can be guessed.

        ``outputs``: the files are of requests. Their keys have a beginning of their own, by which
        rules of a bucket find them.
        """
        id_ = _id(hmac.digest(secret, self._text(), "sha256"))
        return replace(self, keyed_id=f"{OUTPUTS}{id_}" if outputs else id_)

    @property
    def private(self) -> bool:
        """False if everyone may read, so that the files need no check."""
        decisions = (self.default, *self.users.values())
        return any(decision is not AccessDecision.ALLOW for decision in decisions)

    @property
    def id(self) -> str:
        """Digest of the rules: 22 characters of base64url, maybe after ``OUTPUTS``. It is no
        secret."""
        return self.keyed_id or _id(hashlib.sha256(self._text()).digest())

    def _text(self) -> bytes:
        return json.dumps([self.tenant, self.default, sorted(self.users.items())]).encode()

    def decide(self, tenant: str | None) -> AccessDecision:
        """Decision for a reader; None: one without a key."""
        if tenant is None:
            return self.default
        if tenant == self.tenant:
            return AccessDecision.ALLOW
        return self.users.get(tenant, self.default)


def _id(digest: bytes) -> str:
    return base64.urlsafe_b64encode(digest[:16]).rstrip(b"=").decode()


@dataclass(frozen=True, slots=True)
class Revocation:
    """Signed URLs of a file that are not valid any more.

    ``signature``: of one URL; empty: of all that were signed before the file's ``generation``.
    """

    number: int  # grows with every revocation
    key: str  # of the file
    signature: str
    generation: int
    expires_at: datetime | None  # of the URL; None: it does not expire


class FileAccessBook(Protocol):
    """Registry of access rules and revoked URLs. Methods raise ``DatabaseUnavailable``."""

    async def keep(self, access: FileAccess) -> bool:
        """Store rules, if they are not stored. False: the tenant has too many different ones."""
        ...

    async def find(self, access_id: str) -> FileAccess | None: ...

    async def page(self, tenant: str, after: str, limit: int) -> Sequence[FileAccess]:
        """Rules of a tenant with ids above ``after``, in their order."""
        ...

    async def revoke(
        self,
        tenant: str,
        key: str,
        signature: str,
        expires_at: datetime | None,
        actor: Actor,
    ) -> bool:
        """Revoke one URL, or with an empty ``signature`` all of the file so far, and note it in the
        audit log. False: the tenant has too many revocations of single URLs that are in force."""
        ...

    async def revocations(self, after: int) -> Sequence[Revocation]:
        """Revocations with a number above ``after``, in order, some at a time."""
        ...

    async def forget(self) -> None:
        """Delete revocations of URLs that have expired, and of files that are gone."""
        ...
