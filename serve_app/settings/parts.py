"""Division of the settings among Serve applications.

Ray hashes an application's arguments and replaces all of its replicas when they change. So each
application gets only the settings that its replicas need at their start. Settings that are ``LIVE``
are arguments of none: the ingress reads them from the configuration file while it runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from serve_app.settings.pools import BOUNDS, PoolConfig

APPLICATION = "darkroom"
"""Serve application of the ingress."""

CONFIG_FILE = "config_file"
"""Argument of the ingress's application: path of the file that it watches."""

VERSION = "version"
"""Argument of every application that ``serve deploy`` gets: Darkroom's version. It only makes a new
version another configuration, whose replicas Serve replaces; it compares nothing else."""

Arguments = dict[str, Any]

ONLY_OF_REPLICAS = frozenset(
    {
        "adapters_dir",
        "adapters_max_bytes",
        "comfyui",
        "tuning_file",
        "weights_max_bytes",
        "weights_mirror",
        "weights_mirror_endpoint_url",
        "weights_mirror_profile",
        "weights_peer_bytes_per_s",
        "weights_peers",
        "weights_shared_dir",
    }
)
"""Settings that the ingress does not read."""

OF_REPLICAS = ONLY_OF_REPLICAS | {
    "allow_private_urls",
    "data_dir",
    "gpus",
    "log_file",
    "log_format",
    "log_level",
    "max_adapter_bytes",
    "min_download_bytes_per_s",
    "offline",
    "realtime_idle_s",
    "s3_bucket",
    "weights_dir",
}
"""Settings that replicas of every pool get at their start."""

LIVE = frozenset(
    {
        "audit_retention_days",
        "cost_currency",
        "endpoint_limits",
        "fal_prices",
        "file_retention_days",
        "file_url_valid_s",
        "files",
        "gpu_hour_costs",
        "max_batches_per_tenant",
        "max_body_bytes",
        "max_drafts_bytes_per_tenant",
        "max_frame_bytes",
        "max_open_uploads_per_tenant",
        "max_private_endpoints_per_tenant",
        "max_running_per_tenant",
        "max_sessions_per_tenant",
        "max_uploads_bytes_per_tenant",
        "max_waiting",
        "max_waiting_bytes_per_tenant",
        "max_waiting_per_tenant",
        "max_weights_bytes_per_tenant",
        "min_free_disk_bytes",
        "min_free_disk_bytes_for_artifacts",
        "min_free_disk_bytes_for_uploads",
        "model_aliases",
        "models",
        "oidc_groups",
        "pools",
        "previews",
        "prices",
        "prompt_retention_days",
        "retention_days",
        "share_hub_token",
        "tenant_limits",
        "usage_detail_days",
        "usage_retention_days",
        "webhook_retention_days",
    }
)
"""Settings that every ingress replica reads from the configuration file while it runs."""


def pool_application(pool: str) -> str:
    """Serve application of a pool."""
    return f"{APPLICATION}-{pool}"


def without_version(arguments: Mapping[str, Any]) -> Arguments:
    """Arguments that builders read: all but ``VERSION``."""
    return {name: value for name, value in arguments.items() if name != VERSION}


def ingress_arguments(settings: Mapping[str, Any], file: str | None) -> Arguments:
    """Arguments of the ingress's application, from all ``settings``.

    ``file``: absolute path of the configuration file. None: there is none to watch, so the live
    settings are arguments too.
    """
    left_out = ONLY_OF_REPLICAS if file is None else ONLY_OF_REPLICAS | LIVE
    if file is not None and "pools" in settings:
        left_out |= {"families"}  # otherwise the ingress needs them for the pools that it gets
    arguments = {name: value for name, value in settings.items() if name not in left_out}
    return arguments if file is None else arguments | {CONFIG_FILE: file}


def pool_arguments(
    settings: Mapping[str, Any], name: str, pool: PoolConfig, families: Mapping[str, str]
) -> Arguments:
    """Arguments of a pool's application, from all ``settings``. ``families``: all that are not
    built in, by their code."""
    arguments = {key: value for key, value in settings.items() if key in OF_REPLICAS}
    own = {family: families[family] for family in pool.families if family in families}
    return arguments | {
        "families": own,
        "pools": {name: pool.model_dump(mode="json", exclude=set(BOUNDS), exclude_defaults=True)},
    }
