"""Weights that tenants register: their states, and the port of their store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Protocol

from serve_app.domain.audit.acts import Actor
from serve_app.domain.errors import RequestActive
from serve_app.jobs.jobs import Job, JobKind


class WeightState(StrEnum):
    """State of registered weights."""

    WAITING = "waiting"  # for a process that fetches them
    FETCHING = "fetching"
    CHECKING = "checking"
    READY = "ready"
    REFUSED = "refused"

    @property
    def final(self) -> bool:
        return self in (WeightState.READY, WeightState.REFUSED)


WEIGHTS = JobKind(
    "weights", first_wait_s=60.0, max_wait_s=60.0, max_attempts=3, parallel=4, fair=True
)
"""A server that sends slowly holds one of a process's jobs for hours."""


def job_name(job: Job) -> tuple[str, str]:
    """Tenant and name of the weights that a job is about."""
    return job.tenant, job.key.removeprefix(f"{job.tenant}/")


@dataclass(frozen=True, slots=True)
class StoredWeightFile:
    """One file of registered weights."""

    path: str  # in the pipeline's folder; a LoRA's has no folder
    digest: str  # SHA-256, in hex
    size: int


@dataclass(frozen=True, slots=True)
class NewWeights:
    """Weights that a tenant asks to register."""

    tenant: str
    name: str
    base: str  # endpoint
    source: Mapping[str, Any]  # one of upload, url, hub, files
    kind: str = ""  # empty: by the files
    endpoint: str | None = None  # private endpoint that serves them
    scale: float = 1.0  # of a LoRA in its endpoint

    @property
    def audited_source(self) -> Mapping[str, Any]:
        """The source for the audit log: without the query of a URL, which may have a token."""
        url = self.source.get("url")
        return {"url": url.partition("?")[0]} if isinstance(url, str) else self.source


@dataclass(frozen=True, slots=True)
class TenantWeights:
    """Registered weights."""

    tenant: str
    name: str
    kind: str
    base: str
    base_weights: str
    source: Mapping[str, Any]
    state: WeightState
    problem: str
    size: int  # bytes that count towards the quota
    done: int  # bytes that were fetched
    facts: Mapping[str, Any]
    endpoint: str | None
    scale: float
    public: bool
    created_at: datetime
    changed_at: datetime
    files: tuple[StoredWeightFile, ...] = ()

    @property
    def digests(self) -> frozenset[str]:
        return frozenset(file.digest for file in self.files)


@dataclass(frozen=True, slots=True)
class WeightQuota:
    """Limits of a tenant's weights."""

    max_bytes: int
    max_endpoints: int
    max_unfinished: int = 20


@dataclass(frozen=True, slots=True)
class CheckedWeights:
    """Result of a check."""

    kind: str
    files: Sequence[StoredWeightFile]
    base_weights: str
    facts: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @property
    def size(self) -> int:
        return sum(file.size for file in self.files)


MAX_COUNTED = 1000
"""Unfinished requests of a private endpoint that are counted."""


def weights_in_use(name: str, unfinished: int) -> RequestActive:
    """Error about weights whose private endpoint has ``unfinished`` requests."""
    number = f"{MAX_COUNTED} or more" if unfinished >= MAX_COUNTED else unfinished
    return RequestActive(
        f"The private endpoint of the weights {name} has {number} queued or running requests, so "
        "they were not removed. Cancel the requests or let them end first, or remove the weights "
        "with `--force` (`?force=true`): queued requests then fail as soon as a replica would take "
        "them."
    )


class WeightBook(Protocol):
    """Store of registered weights. Each change of a caller and its audit entry are written in one
    transaction. Methods raise ``DatabaseUnavailable``."""

    async def add(self, new: NewWeights, quota: WeightQuota, actor: Actor) -> str:
        """Register weights, and put the job of the kind ``WEIGHTS`` that fetches and checks them.
        Refused ones of the same name are replaced.

        Empty if that was done; otherwise what is in the way: ``exists``, ``unfinished`` (too many
        are being fetched), ``bytes``, ``endpoints``, or ``endpoint`` (it is taken).
        """
        ...

    async def find(self, tenant: str, name: str) -> TenantWeights | None: ...

    async def page(self, tenant: str, limit: int) -> Sequence[TenantWeights]:
        """Weights of the tenant and those that were published, its own first, latest first."""
        ...

    async def remove(self, tenant: str, name: str, actor: Actor, *, force: bool = False) -> bool:
        """Remove weights. A job about them ends. False: there are none. ``RequestActive``: their
        private endpoint has unfinished requests, and ``force`` is not set."""
        ...

    async def publish(self, tenant: str, name: str, actor: Actor, *, public: bool) -> bool:
        """Let all tenants use weights, or no longer. False: there are none."""
        ...

    async def used_bytes(self, tenant: str) -> int:
        """Bytes that count towards the tenant's quota."""
        ...

    async def key_of(self, digest: str) -> str | None:
        """Key of a file in storage."""
        ...

    # Private endpoints.

    async def version(self) -> str:
        """Text that differs after each change of what private endpoints serve."""
        ...

    async def endpoints(self) -> Sequence[TenantWeights]:
        """Weights that are ready and have an endpoint."""
        ...

    # Calls of the process that has taken the job.

    async def report(self, job: Job, state: WeightState, done: int) -> TenantWeights | None:
        """Record progress. None: the job is no longer this process's, or has ended."""
        ...

    async def reserve(self, job: Job, size: int, max_bytes: int) -> bool:
        """Count ``size`` towards the tenant's quota. False: there is not enough left."""
        ...

    async def adopt(self, digest: str, key: str, size: int) -> str:
        """Record a file that is about to be stored, under ``key`` unless it has another. Returns
        its key. It is kept for a day without a use."""
        ...

    async def accept(self, job: Job, checked: CheckedWeights) -> bool:
        """Make the weights ready. False: the job is no longer this process's."""
        ...

    async def refuse(self, job: Job, problem: str) -> None:
        """Refuse the weights, with the reason."""
        ...

    async def collect(self) -> None:
        """Mark files without a use for deletion."""
        ...
