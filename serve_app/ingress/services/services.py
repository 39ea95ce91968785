"""Collaborators of the handlers, in groups, and the background tasks of this process.

They are set as ``app.state.services`` before the first call is served.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import (
    Awaitable,
    Callable,
    Collection,
    Coroutine,
    Iterable,
    Mapping,
    Sequence,
)
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar, cast

from starlette.requests import HTTPConnection

from serve_app.catalog.catalog import Catalog, CatalogEntry
from serve_app.domain.billing.price import Price
from serve_app.domain.endpoint import Endpoint
from serve_app.domain.errors import (
    DarkroomError,
    EndpointNotFound,
    InvalidInput,
    Overloaded,
    SecretMissing,
    Unavailable,
)
from serve_app.domain.executors.comfyui import ComfyUiNodes
from serve_app.domain.executors.fallback import QueuedGroup
from serve_app.domain.executors.hosted import PROVIDERS, wants_own_key
from serve_app.domain.executors.partial_results import PartialResults
from serve_app.domain.executors.secrets import INSTALLATION, named_by
from serve_app.domain.media.safety import SafetyPolicy
from serve_app.domain.ports import Clock, Queue
from serve_app.domain.realtime import ReplicaSessions
from serve_app.domain.sharing.admission import AdmissionControl
from serve_app.domain.workflows.definition import FAMILY as WORKFLOW_FAMILY
from serve_app.domain.workflows.definition import POOL as WORKFLOW_POOL
from serve_app.ingress.services.audit import AuditTrail
from serve_app.ingress.services.files import Files
from serve_app.ingress.services.health import Health
from serve_app.ingress.services.live_catalog import LiveCatalog
from serve_app.ingress.services.live_tenants import LiveTenants
from serve_app.ingress.services.replies import Replies
from serve_app.ingress.services.session_limit import SessionCounts
from serve_app.ingress.services.sign_in import SignIn
from serve_app.ingress.services.warm_pools import WarmPools
from serve_app.ingress.services.webhooks import Webhooks
from serve_app.queue.transactions.catalog_entries import AppBundles
from serve_app.registry.records import WeightBook
from serve_app.resources.secrets import KnownSecrets, SecretBook
from serve_app.settings import Config, PoolConfig
from serve_app.telemetry.metrics import Metrics
from serve_app.tenants.api_keys import Keys
from serve_app.tenants.scopes import Caller
from serve_app.tenants.tokens import StreamTokens, Tokens, UploadTokens

if TYPE_CHECKING:  # it imports OpenTelemetry's SDK
    from serve_app.telemetry.tracing import Tracing

CHECKS_AT_ONCE = 2
"""Files whose signatures this process checks at once. Each is a process of its own."""

# Tasks that continue after the call that started them has ended.

T = TypeVar("T")
log = logging.getLogger(__name__)


class Background:
    """Holds tasks until they end. The event loop keeps only weak references to them, so without
    this they could be garbage collected."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()
        self._cancelled: set[asyncio.Task[None]] = set()  # those that a shutdown ends

    def start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Start ``work``. Awaiting the task returns its result."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def start_detached(self, work: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]:
        """Start ``work`` without awaiting it. A failure is logged under ``name``."""
        task = self.start(work)
        task.set_name(name)
        task.add_done_callback(_log_failure)
        return task

    def start_until_closed(self, work: Coroutine[Any, Any, None]) -> None:
        """Start ``work``, which ``join`` cancels."""
        task = asyncio.create_task(work)
        self._cancelled.add(task)
        task.add_done_callback(self._cancelled.discard)

    async def join(self) -> None:
        """Wait until all tasks have ended. Call it at shutdown, before the queue closes."""
        for task in self._cancelled:
            task.cancel()
        while self._tasks:
            await asyncio.wait(set(self._tasks))


def _log_failure(task: asyncio.Task[Any]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("%s failed: %s", task.get_name(), error, exc_info=error)


# Map from endpoints to worker pools.

STUDIO = "studio"
"""Only pool of an installation that configures none. It hosts every family."""


class PoolMap:
    """Endpoint → pool: the one that its entry names, or else the first configured one that names
    it, or else the first that hosts its family and names no endpoints. Pools that take requests of
    another one are none of these."""

    def __init__(self, pools: Mapping[str, PoolConfig] | None) -> None:
        self._by_family: dict[str, str] | None = None
        self._by_endpoint: dict[str, str] = {}
        self.configured: Mapping[str, PoolConfig] = pools or {}
        if pools is not None:
            self._by_family = {}
            for name, pool in pools.items():
                if pool.beside_or_after:
                    continue  # it has no queue
                for endpoint in pool.endpoints:
                    self._by_endpoint.setdefault(endpoint, name)
                for family in pool.families if not pool.endpoints else ():
                    self._by_family.setdefault(family, name)

    def pool_of(self, endpoint: Endpoint, named: str = "") -> str:
        """Pool that runs the endpoint. ``named``: by its entry; empty if it names none.
        ``Unavailable``: no pool of this installation can."""
        if self._by_family is None:
            return STUDIO
        if named in self.configured:
            before = self.configured[named].beside_or_after
            if before:
                raise Unavailable(
                    f"The entry of {endpoint.id} names the pool {named}, which takes requests of "
                    f"{before} and has no queue. Name {before} in the entry."
                )
            return named
        own = self._by_endpoint.get(endpoint.id)
        if own is not None and endpoint.family not in self.configured[own].families:
            raise Unavailable(
                f"The pool {own} names {endpoint.id} in `endpoints`, but does not host its "
                f"family `{endpoint.family}`. Add it to the pool's `families`."
            )
        pool = own or self._by_family.get(endpoint.family)
        if pool is None:
            only = any(endpoint.family in each.families for each in self.configured.values())
            raise Unavailable(
                f"No pool of this installation hosts the family `{endpoint.family}` of "
                f"{endpoint.id}{', except for other `endpoints`' if only else ''}. Add it to a "
                "pool in DARKROOM_POOLS."
            )
        return pool

    def device_bytes(self, pool: str) -> int | None:
        """Memory of each GPU of a pool. None if its settings do not say."""
        config = self.configured.get(pool)
        return None if config is None else config.device_bytes


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
    clock: Clock
    admission: AdmissionControl
    new_id: Callable[[], str]
    metrics: Metrics
    audit: AuditTrail
    warm: WarmPools
    weights: WeightBook
    secrets: SecretBook
    known_secrets: KnownSecrets = field(default_factory=KnownSecrets)
    safety: SafetyPolicy = field(default_factory=SafetyPolicy)
    tracing: Tracing | None = None  # None: spans are off
    proxy_secret: str = ""  # of the proxies that say their client's address; empty: there is none
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

    async def require_secrets(self, tenant: str, endpoint: Endpoint) -> None:
        """Raise ``SecretMissing`` for a secret that an endpoint names and that is not set. Those of
        hosted providers may have the tenant's own."""
        is_hosted, own_key = endpoint.family in PROVIDERS, wants_own_key(endpoint)
        owners = [*([tenant] if is_hosted else []), *([] if own_key else [INSTALLATION])]
        for name in named_by(endpoint.options):
            for owner in owners:
                if await self.known_secrets.has(self.secrets, owner, name, self.clock):
                    break
            else:
                raise SecretMissing(
                    f"{endpoint.id} needs a key of your own in the secret {name}, which is not "
                    f"set. Set it with `darkroom secrets set {name}`."
                    if own_key
                    else f"{endpoint.id} needs the secret {name}, which is not set. An operator "
                    f"sets it with `darkroom secrets set {name} --installation`."
                )

    def check_policy(self, tenant: str, endpoint: str, input: Mapping[str, Any]) -> None:
        """Raise ``InvalidInput`` if the operator's policy refuses the input, or all files that it
        makes."""
        if not self.safety.rules:
            return
        entry = self.catalog.find_any(endpoint)
        try:
            self.safety.check(tenant, endpoint, input)
            if entry is not None:
                self.safety.check_types(tenant, endpoint, entry.schema.media_types(input))
            if entry is not None and entry.base:
                self._check_private(tenant, entry, input)
        except InvalidInput as error:
            self.metrics.safety_decided("input", "block")
            noted = self.audit.input_refused(tenant, endpoint, error.message)
            self.background.start_detached(noted, "audit of a refused input")
            raise

    def _check_private(self, tenant: str, entry: CatalogEntry, input: Mapping[str, Any]) -> None:
        """Apply the rules of the endpoint that a private one is like, and those of weights."""
        self.safety.check(tenant, entry.base, input)
        self.safety.check_types(tenant, entry.base, entry.schema.media_types(input))
        for endpoint in (entry.endpoint.id, entry.base):
            given = tenant, endpoint, entry.repository, entry.digests
            self.safety.check_weights(*given, "endpoint")

    def check_weights(
        self, tenant: str, endpoint: str, repository: str, digests: Iterable[str], field: str
    ) -> None:
        """Raise ``InvalidInput`` if the operator's policy refuses registered weights."""
        entry = self.catalog.find_any(endpoint)
        places = {endpoint, entry.base} if entry is not None and entry.base else {endpoint}
        try:
            for each in sorted(places):
                self.safety.check_weights(tenant, each, repository, digests, field)
        except InvalidInput as error:
            self.metrics.safety_decided("input", "block")
            noted = self.audit.input_refused(tenant, endpoint, error.message)
            self.background.start_detached(noted, "audit of a refused input")
            raise

    async def output_decided(self, request_id: str, decisions: Sequence[Mapping[str, Any]]) -> None:
        """Count and record decisions of the safety policy about files of a request."""
        for each in decisions:
            self.metrics.safety_decided("output", str(each["action"]))
        await self.audit.output_decided(request_id, decisions)

    def price_of(self, entry: CatalogEntry) -> Price | None:
        """Price of an endpoint now: of the settings, or else of its entry. None: it is free."""
        prices = self.config.billing.prices
        of_base = prices.get(entry.base, entry.source.price)
        return prices.get(entry.endpoint.id, of_base)

    def count_refusal(self, status: int, error: DarkroomError) -> None:
        """Count a call that was answered by ``error``, if it may succeed later."""
        if status in CAPACITY:
            reason = error.reason if isinstance(error, Overloaded) else error.code
            self.metrics.refused(status, reason)


LedPools = Callable[[], Awaitable[Collection[tuple[str, str]]]]
POOL_GONE_S = 60.0
"""How long a pool has to be gone: a cluster that starts again has it back within seconds."""


class PoolChanges:
    """Moves what is queued in pools that are gone to the pools that its endpoints have now. A pool
    is fixed at the submit, so nothing would ever run it."""

    def __init__(
        self, services: Services, cluster: str, led: LedPools, gone_s: float = POOL_GONE_S
    ) -> None:
        """``cluster``: id of this one. ``led``: all clusters on this database, with their pools."""
        self._services = services
        self._cluster = cluster
        self._led = led
        self._gone_s = gone_s
        self._seen: dict[str, float] = {}  # pools that are gone, and since when
        self._stay: set[tuple[str, str]] = set()  # pools and endpoints that no pool runs

    async def look(self) -> None:
        """Move what waits in pools that neither this cluster nor another one has had for long."""
        configured = self._services.pools.configured
        if not configured:
            return
        with_queue = {name for name, pool in configured.items() if not pool.beside_or_after}
        elsewhere = {
            pool
            for cluster, pool in await self._led()
            if cluster != self._cluster or pool not in configured
        }
        fallbacks, now = self._services.queue.fallbacks, self._services.clock.monotonic()
        found = await fallbacks.queued_outside(with_queue | elsewhere | {WORKFLOW_POOL})
        self._seen = {each.pool: self._seen.get(each.pool, now) for each in found}
        for each in found:
            if now - self._seen[each.pool] >= self._gone_s:
                await self._move(each)

    async def _move(self, group: QueuedGroup) -> None:
        stays = group.pool, group.endpoint
        try:
            pool = self._pool_of(group)
        except DarkroomError as error:
            if stays not in self._stay:
                log.warning(
                    "Requests for %s wait in the pool %s, which is not configured. %s",
                    *(group.endpoint, group.pool, error.message),
                )
            self._stay.add(stays)
            return
        moved = await self._services.queue.fallbacks.change_pool(group, pool)
        log.info(
            "%d queued requests for %s wait in the pool %s now: the pool %s is not configured.",
            *(moved, group.endpoint, pool, group.pool),
        )

    def _pool_of(self, group: QueuedGroup) -> str:
        entry = self._services.catalog.of_tenant(group.tenant).find(group.endpoint)
        pool = self._services.pool_of(entry) if entry is not None else ""
        if pool not in self._services.pools.configured:
            raise EndpointNotFound("The catalogue has no such endpoint: add it, or cancel them.")
        return pool


def services_of(request: HTTPConnection) -> Services:
    return cast("Services", request.app.state.services)
