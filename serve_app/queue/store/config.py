"""The numbers that govern the queue."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from serve_app.settings import Config, EndpointLimits, TenantLimits


@dataclass(frozen=True, slots=True)
class QueueLimits:
    """Durations in seconds; see the settings of the same names."""

    lease_s: float = 30.0
    first_lease_s: float = 5.0  # until the replica has confirmed the lease by a report
    ask_wait_s: float = 5.0
    max_failures: int = 3
    max_unconfirmed: int = 10  # leases that no replica ever confirmed, before the request fails
    max_waiting: int = 100_000
    max_waiting_per_tenant: int = 50_000
    overtime_s: float = 30.0  # past its time in all a request may run, for its replica to say so
    look_s: float = 1.0  # how often time, death and lost notifications are looked at
    max_running_per_tenant: int | None = None
    tenants: Mapping[str, TenantLimits] = field(default_factory=dict[str, TenantLimits])
    endpoints: Mapping[str, EndpointLimits] = field(default_factory=dict[str, EndpointLimits])

    @classmethod
    def of(cls, config: Config) -> QueueLimits:
        return cls(
            lease_s=config.lease_s,
            first_lease_s=config.first_lease_s,
            ask_wait_s=config.ask_wait_s,
            max_failures=config.max_failures,
            max_waiting=config.max_waiting,
            max_waiting_per_tenant=config.max_waiting_per_tenant,
            max_running_per_tenant=config.max_running_per_tenant,
            tenants=config.tenant_limits,
            endpoints=config.endpoint_limits,
        )

    def weight(self, tenant: str) -> float:
        """The tenant's share is this against the weights of the others."""
        own = self.tenants.get(tenant)
        return 1.0 if own is None else own.weight

    def waiting_of_tenant(self, tenant: str) -> int:
        own = self.tenants.get(tenant)
        return (
            self.max_waiting_per_tenant
            if own is None or own.max_waiting is None
            else own.max_waiting
        )

    def waiting_of_endpoint(self, endpoint: str) -> int | None:
        own = self.endpoints.get(endpoint)
        return None if own is None else own.max_waiting

    def running_of_tenant(self, tenant: str) -> int | None:
        own = self.tenants.get(tenant)
        return (
            self.max_running_per_tenant
            if own is None or own.max_running is None
            else own.max_running
        )

    def running_of_endpoint(self, endpoint: str) -> int | None:
        own = self.endpoints.get(endpoint)
        return None if own is None else own.max_running

    @property
    def limits_running(self) -> bool:
        """Whether there is any limit on what runs."""
        each = (*self.tenants.values(), *self.endpoints.values())
        return self.max_running_per_tenant is not None or any(
            one.max_running is not None for one in each
        )

    def limits(self, tenant: str, endpoint: str) -> bool:
        """Whether there is a limit on what runs of these."""
        return (
            self.running_of_tenant(tenant) is not None
            or self.running_of_endpoint(endpoint) is not None
        )
