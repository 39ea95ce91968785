"""The numbers that govern the queue."""

from __future__ import annotations

from dataclasses import dataclass

from serve_app.settings import Config


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
    look_s: float = 1.0  # how often time, death and lost notifications are looked at

    @classmethod
    def of(cls, config: Config) -> QueueLimits:
        return cls(
            lease_s=config.lease_s,
            first_lease_s=config.first_lease_s,
            ask_wait_s=config.ask_wait_s,
            max_failures=config.max_failures,
            max_waiting=config.max_waiting,
            max_waiting_per_tenant=config.max_waiting_per_tenant,
        )
