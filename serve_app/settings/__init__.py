"""Settings of Darkroom. Only this package reads the environment."""

from serve_app.settings.config import (
    ADDRESS_FILE,
    AWS_SECRET_NAMES,
    FIELDS,
    SECRET_NAMES,
    ClientSettings,
    Config,
    Secrets,
    read_config,
    refuse_unknown,
    setting_names,
)
from serve_app.settings.groups import PREFIX
from serve_app.settings.pools import NO_LIMITS, EndpointLimits, PoolConfig, TenantLimits

__all__ = [
    "ADDRESS_FILE",
    "AWS_SECRET_NAMES",
    "FIELDS",
    "NO_LIMITS",
    "PREFIX",
    "SECRET_NAMES",
    "ClientSettings",
    "Config",
    "EndpointLimits",
    "PoolConfig",
    "Secrets",
    "TenantLimits",
    "read_config",
    "refuse_unknown",
    "setting_names",
]
