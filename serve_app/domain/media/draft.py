"""Drafts: generations that stopped early, and wait in storage for requests that go on from them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Protocol

from serve_app.domain.audit.acts import Actor
from serve_app.domain.outcome import Outcome

DRAFT_TYPE = "application/vnd.darkroom.draft"
"""Media type of a draft's file, which has an upload ticket like other files, and no public URL."""

DRAFT, FROM_DRAFT, NEW_NOISE, NOISE_SEED = "draft", "from_draft", "new_noise", "noise_seed"
"""Fields of an input."""

DRAFTS = "drafts"
"""Field of an output: facts of the drafts, in the order of its files."""

MAX_DRAFTS = 16
"""Limit for one request."""

HELD_S = 600.0
"""Seconds for which a draft stays after a request has found it, so that the request is stored
before the draft can expire."""


@dataclass(frozen=True, slots=True)
class StoredDraft:
    """A draft that a request can go on from, as its tenant sees it."""

    id: str  # as hard to guess as an API key
    tenant: str
    request_id: str
    endpoint: str
    key: str  # in storage; not shown
    size: int  # bytes
    seed: int
    step: int  # that it has made
    steps: int  # of the whole generation; 0: unknown
    noise: float | None  # share of noise that is left in its latents; None: unknown
    created_at: datetime
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class DraftOrigin:
    """A draft, and the request that made it."""

    draft: StoredDraft
    input: Mapping[str, Any]
    endpoint_digest: str


@dataclass(frozen=True, slots=True)
class DraftSpace:
    """Bytes of a tenant's drafts, as far as a request for more of them needs to know."""

    used: int  # by those that have not expired
    coming: int  # those of unfinished requests, as was expected when these were stored
    largest: int  # of the tenant's newest drafts, one of the same endpoint; 0: there is none


class DraftBook(Protocol):
    """Registry of drafts. The queue writes it at the end of a request. Every method may raise
    ``DatabaseUnavailable``. A draft that has expired is not found, also before it is deleted."""

    async def used_bytes(self, tenant: str) -> int:
        """Bytes that the tenant's drafts take now."""
        ...

    async def space(self, tenant: str, endpoint: str) -> DraftSpace:
        """Bytes that the tenant's drafts take and will take, and those of one of ``endpoint``."""
        ...

    async def open(self, tenant: str, draft_id: str) -> DraftOrigin | None:
        """Find a draft of the tenant to go on from, and hold it for ``HELD_S``. A request that
        goes on from it then keeps it until its end. None: there is none."""
        ...

    async def look(self, tenant: str, draft_id: str) -> DraftOrigin | None:
        """The same without holding it, for an estimate."""
        ...

    async def get(self, tenant: str, draft_id: str) -> StoredDraft | None:
        """A draft of the tenant, or None."""
        ...

    async def newest(
        self,
        tenant: str,
        limit: int,
        before: tuple[datetime, str] | None = None,
        *,
        endpoints: Collection[str] = (),
        request_id: str | None = None,
    ) -> Sequence[StoredDraft]:
        """Drafts of the tenant, latest first. ``before``: time and id of the last draft of the
        previous page. ``endpoints``: patterns of these, in which ``*`` stands for any characters;
        empty: all. ``request_id``: only those that this request made."""
        ...

    async def delete(self, tenant: str, draft_id: str, actor: Actor | None = None) -> bool:
        """Delete a draft for its tenant. False if the tenant has no such draft. One that is held,
        or that an unfinished request goes on from, is not found any more, and its file stays until
        then. ``actor``: who asked for it, for the audit log."""
        ...


def step_of_draft(share: float, steps: int) -> int:
    """Step of ``steps`` after which a share of them is reached: not before the first, and before
    the last."""
    return min(max(1, round(share * steps)), max(1, steps - 1))


def share_of_steps(step: int, steps: int) -> float:
    """Share of its ``steps`` that a draft has made; 0 if these are unknown."""
    return step / steps if steps else 0.0


def with_expiry(outcome: Outcome, expires_at: datetime) -> Outcome:
    """``outcome`` with the time in each of its drafts at which it expires."""
    if outcome.output is None:
        return outcome
    at = expires_at.isoformat(timespec="seconds").replace("+00:00", "Z")
    drafts = [{**draft, "expires_at": at} for draft in outcome.output[DRAFTS]]
    return replace(outcome, output={**outcome.output, DRAFTS: drafts})
