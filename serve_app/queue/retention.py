"""How long ended requests are kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from serve_app.settings import Config, TenantLimits

DAY_S = 86400.0


@dataclass(frozen=True, slots=True)
class Retention:
    """In days after their end; None: until they are deleted by hand."""

    days: float | None = None
    tenants: Mapping[str, TenantLimits] = field(default_factory=dict[str, TenantLimits])

    @classmethod
    def of(cls, config: Config) -> Retention:
        return cls(config.retention_days, config.tenant_limits)

    @property
    def any(self) -> bool:
        own = (each.retention_days for each in self.tenants.values())
        return self.days is not None or any(days is not None for days in own)

    def age_s(self, tenant: str) -> float | None:
        """Seconds after their end at which the tenant's requests are deleted; None: never."""
        own = self.tenants.get(tenant)
        days = self.days if own is None or own.retention_days is None else own.retention_days
        return None if days is None else days * DAY_S
