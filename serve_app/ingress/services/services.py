"""Collaborators of the handlers, in groups.

They are set as ``app.state.services`` before the first call is served.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from starlette.requests import HTTPConnection

from serve_app.catalog.catalog import Catalog, CatalogEntry
from serve_app.domain.billing.price import Price
from serve_app.domain.errors import DarkroomError, Overloaded, Unavailable
from serve_app.domain.executors.comfyui import ComfyUiNodes
from serve_app.domain.executors.partial_results import PartialResults
from serve_app.domain.media.safety import SafetyPolicy
from serve_app.domain.ports import Clock, Queue
from serve_app.domain.realtime import ReplicaSessions
from serve_app.domain.rest import Rest
from serve_app.domain.sharing.admission import AdmissionControl
from serve_app.domain.workflows.definition import FAMILY as WORKFLOW_FAMILY
from serve_app.domain.workflows.definition import POOL as WORKFLOW_POOL
from serve_app.ingress.services.address_rates import AddressRates
from serve_app.ingress.services.audit import AuditTrail
from serve_app.ingress.services.background import Background
from serve_app.ingress.services.files import Files
from serve_app.ingress.services.health import Health
from serve_app.ingress.services.live_catalog import LiveCatalog
from serve_app.ingress.services.live_tenants import LiveTenants
from serve_app.ingress.services.open_access import OpenAccess
from serve_app.ingress.services.pool_map import PoolMap
from serve_app.ingress.services.preflights import Preflights
from serve_app.ingress.services.replica_changes import ReplicaChanges
from serve_app.ingress.services.replies import Replies
from serve_app.ingress.services.session_limit import SessionCounts
from serve_app.ingress.services.sign_in import SignIn
from serve_app.ingress.services.warm_pools import WarmPools
from serve_app.ingress.services.webhooks import Webhooks
from serve_app.jobs.jobs import Jobs
from serve_app.queue.transactions.catalog_entries import AppBundles
from serve_app.registry.records import WeightBook
from serve_app.resources.declaration import Resource
from serve_app.resources.registry import RESOURCES
from serve_app.resources.secrets import KnownSecrets, SecretBook
from serve_app.resources.table import Tables
from serve_app.settings import Config
from serve_app.telemetry.metrics import Metrics
from serve_app.tenants.api_keys import Keys
from serve_app.tenants.scopes import Caller
from serve_app.tenants.tokens import StreamTokens, Tokens, UploadTokens

if TYPE_CHECKING:  # it imports OpenTelemetry's SDK
    from serve_app.telemetry.tracing import Tracing

CHECKS_AT_ONCE = 2
"""Files whose signatures this process checks at once. Each is a process of its own."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Credentials that callers prove themselves with."""

    keys: Keys
    tokens: Tokens
    upload_tokens: UploadTokens
    stream_tokens: StreamTokens
    tenants: LiveTenants
    sign_in: SignIn | None = None  # None: people use API keys


CAPACITY = frozenset({429, 503, 507})
"""Statuses of calls that may succeed later."""

MASKS_AT_ONCE = 1
"""Masks that an ingress process decodes at once. Ten of 64 megapixels at once took 2.4 GB."""


@dataclass(slots=True)
class Services:
    """Collaborators of every handler. All are already started, and their creator closes them.

    ``config``, ``file_config`` and ``pools`` are replaced when live settings change.
    """

    config: Config
    file_config: Config  # without the limits that operators have set
    host_names: frozenset[str]  # names accepted in a Host header and used in URLs
    catalog: Catalog
    entries: LiveCatalog
    bundles: AppBundles
    comfyui: ComfyUiNodes
    partials: PartialResults
    pools: PoolMap
    queue: Queue
    files: Files
    identity: Identity
    sessions: ReplicaSessions
    webhooks: Webhooks
    health: Health
    preflights: Preflights
    clock: Clock
    admission: AdmissionControl
    new_id: Callable[[], str]
    metrics: Metrics
    audit: AuditTrail
    warm: WarmPools
    weights: WeightBook
    jobs: Jobs
    tables: Tables
    secrets: SecretBook
    resources: Sequence[Resource[Any]] = RESOURCES
    known_secrets: KnownSecrets = field(default_factory=KnownSecrets)
    safety: SafetyPolicy = field(default_factory=SafetyPolicy)
    tracing: Tracing | None = None  # None: spans are off
    proxy_secret: str = ""  # of the proxies that say their client's address; empty: there is none
    rest: Rest = field(default_factory=Rest)  # of this process
    open_access: OpenAccess = field(default_factory=OpenAccess)
    address_rates: AddressRates = field(init=False)
    replica_changes: ReplicaChanges = field(init=False)
    replies: Replies = field(default_factory=Replies)
    background: Background = field(default_factory=Background)
    session_counts: SessionCounts = field(default_factory=SessionCounts)
    drafts_storing: Counter[str] = field(  # by tenant: drafts of requests that are being stored
        default_factory=Counter[str]
    )
    mask_decoding: asyncio.Semaphore = field(  # around the decoding of a mask
        default_factory=lambda: asyncio.Semaphore(MASKS_AT_ONCE)
    )
    checking: set[str] = field(default_factory=set[str])  # tenants that check a file now
    file_checks: asyncio.Semaphore = field(  # around the check of a signature
        default_factory=lambda: asyncio.Semaphore(CHECKS_AT_ONCE)
    )

    def __post_init__(self) -> None:
        self.address_rates = AddressRates(self.clock)
        self.replica_changes = ReplicaChanges(self._replicas, self.clock)

    async def _replicas(self) -> Sequence[Mapping[str, Any]]:
        return await self.health.replicas()

    def catalog_of(self, caller: Caller) -> Catalog:
        """Catalogue with the private endpoints of the caller's tenant."""
        return self.catalog.of_tenant(caller.tenant)

    def pool_of(self, entry: CatalogEntry) -> str:
        """Pool that runs an endpoint. ``Unavailable``: no pool can."""
        if entry.endpoint.family == WORKFLOW_FAMILY:
            return WORKFLOW_POOL
        base = self.catalog.find(entry.base) if entry.base else None
        endpoint = (base or entry).endpoint
        return self.pools.pool_of(endpoint, entry.pool)

    def pool_if_any(self, entry: CatalogEntry) -> str:
        """As ``pool_of``; empty if no pool can run it."""
        try:
            return self.pool_of(entry)
        except Unavailable:
            return ""

    async def record_output_decisions(
        self, request_id: str, decisions: Sequence[Mapping[str, Any]]
    ) -> None:
        """Count and record decisions of the safety policy about files of a request."""
        for decision in decisions:
            self.metrics.safety_decided("output", str(decision["action"]))
        await self.audit.record_output_decisions(request_id, decisions)

    def price_of(self, entry: CatalogEntry) -> Price | None:
        """Price of an endpoint now: of the settings, or else of its entry. None: it is free."""
        prices = self.config.billing.prices
        of_base = prices.get(entry.base, entry.source.price)
        return prices.get(entry.endpoint.id, of_base)

    def count_refusal(self, status: int, error: DarkroomError) -> None:
        """Count a call that was answered by ``error``, if it may succeed later."""
        if status in CAPACITY:
            reason = error.reason if isinstance(error, Overloaded) else error.code
            self.metrics.count_refusal(status, reason)


def services_of(request: HTTPConnection) -> Services:
    return cast("Services", request.app.state.services)
