"""Limits of the queue, retention of its requests, and the observer of its changes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from serve_app.domain.executors.shadow import LANE_WEIGHT, SHADOW_TENANT
from serve_app.queue.store import messages
from serve_app.queue.store.quotas import Quota
from serve_app.settings import NO_LIMITS, Config, EndpointLimits, TenantLimits, overflow_pools
from serve_app.settings.live import LiveValues
from serve_app.settings.overflow import NO_OVERFLOW, OverflowPools

Limited = tuple[str, str]
"""A tenant or endpoint with a limit on running requests: ``TENANT`` or ``ENDPOINT``, its name."""
TENANT, ENDPOINT = "tenant", "endpoint"


@dataclass(slots=True)
class QueueLimits(LiveValues):
    """Limits and durations in seconds; see the settings of the same names. The limits and
    ``overflow`` may change while the queue runs, the durations and ``max_failures`` do not."""

    lease_s: float = 30.0
    first_lease_s: float = 5.0  # until the replica has confirmed the lease by a report
    ask_wait_s: float = 5.0
    max_failures: int = 3
    max_unconfirmed: int = 10  # leases that no replica confirmed, before the request fails
    max_waiting: int = 100_000
    max_waiting_per_tenant: int = 50_000
    max_waiting_bytes_per_tenant: int = 4 * 2**30  # of large inputs
    # time past the overall deadline in which the replica may report the end itself
    overtime_s: float = 30.0
    # interval of the checks for timeouts, dead replicas and lost notifications
    check_interval_s: float = 1.0
    request_cache_bytes: int = 256 * 2**20
    keep_drafts_s: float = 86_400.0  # from the end of their request
    max_running_per_tenant: int | None = None
    tenants: Mapping[str, TenantLimits] = field(default_factory=dict[str, TenantLimits])
    endpoints: Mapping[str, EndpointLimits] = field(default_factory=dict[str, EndpointLimits])
    overflow: OverflowPools = NO_OVERFLOW
    disabled: frozenset[str] = frozenset()  # tenants whose queued requests wait

    @classmethod
    def of(
        cls,
        config: Config,
        disabled: frozenset[str] = frozenset(),
        bases: Mapping[str, str] | None = None,
    ) -> QueueLimits:
        """``bases``: private endpoints, with the endpoints that they are like. Each has the limits
        of its base, unless the settings name it."""
        named = config.queue.endpoint_limits
        like_base = {id_: named[base] for id_, base in (bases or {}).items() if base in named}
        return cls(
            lease_s=config.queue.lease_s,
            first_lease_s=config.queue.first_lease_s,
            ask_wait_s=config.queue.ask_wait_s,
            max_failures=config.queue.max_failures,
            max_waiting=config.queue.max_waiting,
            max_waiting_per_tenant=config.queue.max_waiting_per_tenant,
            max_waiting_bytes_per_tenant=config.queue.max_waiting_bytes_per_tenant,
            max_running_per_tenant=config.queue.max_running_per_tenant,
            keep_drafts_s=config.limits.keep_drafts_s,
            request_cache_bytes=config.queue.request_cache_bytes,
            tenants=config.queue.tenant_limits,
            endpoints={**like_base, **named},
            overflow=overflow_pools(config.models.pools),
            disabled=disabled,
        )

    def quota_of(self, tenant: str) -> Quota | None:
        """Rate and budget of the tenant. None: it has neither."""
        own = self.tenants.get(tenant)
        return None if own is None else Quota.of(tenant, own)

    def weight(self, tenant: str) -> float:
        """Weight of the tenant: its share is this against the weights of the others."""
        if tenant == SHADOW_TENANT:
            return LANE_WEIGHT
        return self.tenants.get(tenant, NO_LIMITS).weight

    def metrics_label(self, tenant: str) -> str:
        """The tenant, if the settings name it, or that of copies, or else ``other``: a registry of
        metrics keeps each value that a label ever had.
        """
        return tenant if tenant in self.tenants or tenant == SHADOW_TENANT else "other"

    def waiting_of_tenant(self, tenant: str) -> int:
        return self.tenants.get(tenant, NO_LIMITS).max_waiting or self.max_waiting_per_tenant

    def waiting_bytes_of_tenant(self, tenant: str) -> int:
        own = self.tenants.get(tenant, NO_LIMITS)
        return own.max_waiting_bytes or self.max_waiting_bytes_per_tenant

    def waiting_of_endpoint(self, endpoint: str) -> int | None:
        own = self.endpoints.get(endpoint)
        return None if own is None else own.max_waiting

    def running_of_tenant(self, tenant: str) -> int | None:
        if tenant in self.disabled:
            return 0
        return self.tenants.get(tenant, NO_LIMITS).max_running or self.max_running_per_tenant

    def running_of_endpoint(self, endpoint: str) -> int | None:
        own = self.endpoints.get(endpoint)
        return None if own is None else own.max_running

    @property
    def running_parameters(self) -> Mapping[str, object]:
        """Limits on running requests, as parameters of a statement."""
        tenants = {
            tenant: limits.max_running
            for tenant, limits in self.tenants.items()
            if limits.max_running is not None
        } | dict.fromkeys(self.disabled, 0)
        endpoints = [
            {"endpoint": endpoint, "most": limits.max_running}
            for endpoint, limits in self.endpoints.items()
            if limits.max_running is not None
        ]
        return {
            "most_of_tenant": self.max_running_per_tenant,
            "tenants": messages.compact(tenants),
            "endpoints": messages.compact(endpoints),
        }

    @property
    def limits_running(self) -> bool:
        """True if there is any limit on running requests."""
        limits = (*self.tenants.values(), *self.endpoints.values())
        return (
            self.max_running_per_tenant is not None
            or bool(self.disabled)
            or any(limit.max_running is not None for limit in limits)
        )

    def find_limited(self, tenant: str, endpoint: str) -> Sequence[Limited]:
        """Which of this tenant and endpoint have a limit on running requests."""
        names: list[Limited] = []
        if self.running_of_tenant(tenant) is not None:
            names.append((TENANT, tenant))
        if self.running_of_endpoint(endpoint) is not None:
            names.append((ENDPOINT, endpoint))
        return names


# Retention of ended requests.

DAY_S = 86400.0

OWNERS = """
WITH RECURSIVE owner AS (
    (SELECT tenant FROM {table} {where} ORDER BY tenant LIMIT 1)
    UNION ALL
    SELECT (SELECT r.tenant FROM {table} r WHERE r.tenant > o.tenant {also}
            ORDER BY r.tenant LIMIT 1)
    FROM owner o WHERE o.tenant IS NOT NULL
),
own AS MATERIALIZED (
    SELECT * FROM json_to_recordset(%(ages)s::json) AS x(tenant text, age_s double precision)
)
SELECT o.tenant, coalesce(
    (SELECT age_s FROM own WHERE own.tenant = o.tenant), %(age_s)s::double precision)
FROM owner o WHERE o.tenant IS NOT NULL
"""
"""Statement for the tenants of a table, one index step for each, with the ages that apply."""


@dataclass(slots=True)
class Retention(LiveValues):
    """Retention in days after a request's end. None: until it is deleted by hand.

    ``audit_days``: of entries of the audit log. None: forever. ``usage_detail_days``: after which
    lines of usage are rolled up by day. None: never. The other ages count from the same end, and
    leave the request.
    """

    days: float | None = None
    tenants: Mapping[str, TenantLimits] = field(default_factory=dict[str, TenantLimits])
    audit_days: float | None = None
    usage_detail_days: float | None = None
    prompt_days: float | None = None  # inputs, outputs and logs of requests
    file_days: float | None = None  # outputs, and uploads from their arrival
    webhook_days: float | None = None  # webhooks that have ended, with their tries
    usage_days: float | None = None  # lines and sums of usage

    @classmethod
    def of(cls, config: Config) -> Retention:
        queue = config.queue
        return cls(
            queue.retention_days,
            queue.tenant_limits,
            queue.audit_retention_days,
            config.billing.usage_detail_days,
            queue.prompt_retention_days,
            queue.file_retention_days,
            config.webhooks.webhook_retention_days,
            config.billing.usage_retention_days,
        )

    def usual_days(self, setting: str) -> float | None:
        """Age by the setting of this name, for tenants without their own."""
        return {
            "retention_days": self.days,
            "prompt_retention_days": self.prompt_days,
            "file_retention_days": self.file_days,
        }[setting]

    def own_days(self, setting: str) -> Mapping[str, float]:
        """Ages of tenants that have their own, by the setting of this name."""
        by_tenant = {tenant: getattr(limits, setting) for tenant, limits in self.tenants.items()}
        return {tenant: days for tenant, days in by_tenant.items() if days is not None}

    def upload_age_s(self, tenant: str) -> float | None:
        """Seconds after their arrival at which the tenant's uploads are deleted; None: never."""
        days = self.tenants.get(tenant, NO_LIMITS).file_retention_days or self.file_days
        return self.age_s(tenant) if days is None else days * DAY_S

    @property
    def any_upload(self) -> bool:
        """True if any tenant's uploads are deleted by age."""
        own = self.own_days("file_retention_days")
        return self.any or self.file_days is not None or bool(own)

    @property
    def any(self) -> bool:
        """True if any tenant's requests are deleted by age."""
        own = (limits.retention_days for limits in self.tenants.values())
        return self.days is not None or any(days is not None for days in own)

    def age_s(self, tenant: str) -> float | None:
        """Seconds after their end at which the tenant's requests are deleted; None: never."""
        days = self.tenants.get(tenant, NO_LIMITS).retention_days or self.days
        return None if days is None else days * DAY_S


def ages(own: Mapping[str, float], usual: float | None) -> Mapping[str, object]:
    """Values for a statement of ``OWNERS``. ``own``: days of tenants with their own; ``usual``: of
    all others."""
    rows = [{"tenant": tenant, "age_s": days * DAY_S} for tenant, days in own.items()]
    return {"ages": messages.compact(rows), "age_s": None if usual is None else usual * DAY_S}
