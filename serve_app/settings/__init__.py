"""Settings of Darkroom. Only this package reads the environment."""

from serve_app.settings.config import (
    ADDRESS_FILE,
    AWS_SECRET_NAMES,
    FIELDS,
    HUB_SECRET_NAMES,
    OTLP_SECRET_NAMES,
    SECRET_NAMES,
    SECRETS_DIR,
    ClientSettings,
    Config,
    OpenTelemetrySettings,
    Secrets,
    read_config,
    refuse_unknown,
    setting_names,
)
from serve_app.settings.groups import PREFIX
from serve_app.settings.parts import APPLICATION, pool_application
from serve_app.settings.patterns import Matching
from serve_app.settings.pools import (
    BUDGET,
    NO_LIMITS,
    STORAGE,
    BudgetConfig,
    EndpointLimits,
    PoolConfig,
    TenantLimits,
    overflow_pools,
)
from serve_app.settings.sign_in import DEFAULT_SCOPES, EndpointPattern, Scope, Tenant

__all__ = [
    "ADDRESS_FILE",
    "APPLICATION",
    "AWS_SECRET_NAMES",
    "BUDGET",
    "DEFAULT_SCOPES",
    "FIELDS",
    "HUB_SECRET_NAMES",
    "NO_LIMITS",
    "OTLP_SECRET_NAMES",
    "PREFIX",
    "SECRETS_DIR",
    "SECRET_NAMES",
    "STORAGE",
    "BudgetConfig",
    "ClientSettings",
    "Config",
    "EndpointLimits",
    "EndpointPattern",
    "Matching",
    "OpenTelemetrySettings",
    "PoolConfig",
    "Scope",
    "Secrets",
    "Tenant",
    "TenantLimits",
    "overflow_pools",
    "pool_application",
    "read_config",
    "refuse_unknown",
    "setting_names",
]
