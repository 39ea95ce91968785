"""Every setting of Darkroom, and the only place that reads the environment.

``Config`` holds what is no secret: it is bound into the Serve application and so lands in Ray's
metadata. ``Secrets`` holds the rest: the ingress reads it in its own process when it starts, and
nothing passes it on. A variable that starts with ``DARKROOM_`` and is not a setting is refused by
``refuse_unknown``, because a typo that is silently ignored is found in production.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
)
from pydantic_settings import BaseSettings, SettingsConfigDict

from serve_app.domain.errors import Misconfigured
from serve_app.domain.model_aliases import MODEL_ALIASES
from serve_app.domain.store_config import StoreConfig

PREFIX = "DARKROOM_"


SLOTS_ON_GPU = 8
SLOTS_ON_CPU = 2  # on few cores more of them only share what there is


def _local_gpus() -> int:
    """NVIDIA's device files, one per GPU: counting them needs neither torch nor a driver."""
    return len(list(Path("/dev").glob("nvidia[0-9]*")))


class PoolConfig(BaseModel):
    """One pool: a Serve deployment, the families it hosts and how it scales."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    families: tuple[str, ...] = Field(description="Families that its replicas host.")
    slots: int = Field(
        default=0,
        ge=0,
        le=256,
        description="Generations a replica runs at once, if its memory has room for them; "
        f"0: {SLOTS_ON_GPU} on a GPU, {SLOTS_ON_CPU} on a CPU.",
    )
    min_replicas: int = Field(default=1, ge=0)
    max_replicas: int = Field(default=1, ge=1)
    spare_replicas: int = Field(default=0, ge=0, description="Kept beyond what the demand needs.")
    keep_alive_s: float = Field(default=60.0, ge=0, description="Idle time before scaling down.")
    devices_per_replica: int = Field(
        default=1, ge=1, le=64, description="Devices that compute each denoiser call together."
    )
    num_cpus: float = Field(default=0.1, ge=0)
    num_gpus: float = Field(default=0.0, ge=0)
    accelerator: str | None = Field(
        default=None, description="Only on this class of GPU, as Ray calls it: L4, A10G, H100 …"
    )
    resources: dict[str, float] = Field(
        default_factory=dict, description="Custom resources that a node must have."
    )
    threads: int = Field(default=0, ge=0, description="Torch threads; 0 leaves torch's own choice.")
    weights_bytes: int = Field(
        default=0, ge=0, description="Weights that a replica keeps loaded; 0: by the device."
    )
    adapter_bytes: int = Field(
        default=2**30, ge=1, description="Adapters that a replica keeps on the device."
    )
    warm_up: bool = Field(
        default=True, description="On a GPU: a short generation after weights are loaded."
    )
    graceful_shutdown_timeout_s: float = Field(default=20.0, ge=6)
    snapshot_interval_s: float = Field(
        default=10.0, ge=0, description="Between two snapshots of what runs; 0: only at the end."
    )
    stuck_after_s: float = Field(
        default=600.0, gt=0, description="One step that takes longer ends the replica."
    )

    @property
    def most_slots(self) -> int:
        """Generations that a replica runs at once, at most."""
        return self.slots or (SLOTS_ON_GPU if self.num_gpus else SLOTS_ON_CPU)


class TenantLimits(BaseModel):
    """A tenant's share and limits."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    weight: float = Field(default=1.0, gt=0, le=1000, description="Its share against the others'.")
    max_running: int | None = Field(default=None, ge=1, description="Requests at once.")
    max_waiting: int | None = Field(default=None, ge=1, description="Queued requests.")
    retention_days: float | None = Field(
        default=None, gt=0, description="Its ended requests are deleted after so many days."
    )


class EndpointLimits(BaseModel):
    """An endpoint's limits, of all tenants together."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_running: int | None = Field(default=None, ge=1, description="Requests at once.")
    max_waiting: int | None = Field(default=None, ge=1, description="Queued requests.")


class Config(BaseSettings):
    """Settings that are no secret. Each is ``DARKROOM_<NAME>`` in the environment, or a key of the
    application's arguments in a Serve configuration file, which wins.
    """

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="forbid", frozen=True)

    data_dir: Path = Field(
        default=Path("~/.darkroom"),
        description="Where the embedded database, artifacts and the API key are kept.",
    )
    host: str = Field(default="127.0.0.1", description="Address that the HTTP port binds.")
    port: int = Field(default=8000, ge=1, le=65535, description="The HTTP port.")
    tls_port: int | None = Field(
        default=None,
        ge=0,
        le=65535,
        description="HTTPS port of `darkroom serve`. Unset: 443 above the HTTP port; 0: none.",
    )
    tls_certificate: Path | None = Field(
        default=None, description="PEM, with its chain. Unset: one of the installation's own."
    )
    tls_key: Path | None = Field(default=None, description="PEM, its key. Unset: in the same file.")
    proxy_port: int | None = Field(
        default=None,
        ge=0,
        le=65535,
        description="CONNECT proxy of `darkroom serve`. Unset: 128 above the HTTP port; 0: none.",
    )
    proxy_host: str = Field(default="127.0.0.1", description="Address that the proxy port binds.")
    public_url: str | None = Field(
        default=None, description="Origin of every URL handed out; otherwise the client's own Host."
    )
    trusted_hosts: tuple[str, ...] = Field(
        default=(), description="Names that clients reach Darkroom by, besides this machine's own."
    )
    internal_url: str | None = Field(
        default=None, description="Origin at which replicas reach the ingress to upload."
    )
    gpus: int = Field(
        default_factory=_local_gpus, ge=0, description="GPUs on this machine. Unset: looked up."
    )
    demo: bool | None = Field(
        default=None, description="Serve the demo models. Unset: only on a machine without a GPU."
    )
    models: Path | None = Field(default=None, description="A catalogue in place of models.yaml.")
    model_aliases: dict[str, str] = Field(
        default_factory=lambda: dict(MODEL_ALIASES),
        description="Names by which clients of other protocols call endpoints: name to endpoint.",
    )
    pools: dict[str, PoolConfig] | None = Field(
        default=None,
        description="Pools by name. Unset: `studio`, one pool that hosts every family.",
    )
    families: dict[str, str] = Field(
        default_factory=dict, description="More families: name to `module:Class`."
    )
    ingress_replicas: int = Field(default=1, ge=1, description="Replicas of the ingress.")
    lease_s: float = Field(default=30.0, gt=0, description="How long a lease lasts unless renewed.")
    first_lease_s: float = Field(
        default=5.0, gt=0, description="How long a lease lasts until the replica has confirmed it."
    )
    ask_wait_s: float = Field(default=5.0, gt=0, description="How long an ask waits for work.")
    max_failures: int = Field(
        default=3, ge=1, description="Attempts that may end by crash before the request fails."
    )
    max_waiting: int = Field(default=100_000, ge=1, description="Queued requests in all.")
    max_waiting_per_tenant: int = Field(default=50_000, ge=1)
    max_running_per_tenant: int | None = Field(
        default=None, ge=1, description="Requests of a tenant that run at once. Unset: no limit."
    )
    tenant_limits: dict[str, TenantLimits] = Field(
        default_factory=dict, description="Weight and limits of single tenants, by their id."
    )
    endpoint_limits: dict[str, EndpointLimits] = Field(
        default_factory=dict, description="Limits of single endpoints, by their id."
    )
    retention_days: float | None = Field(
        default=None, gt=0, description="Ended requests are deleted after so long. Unset: never."
    )
    max_body_bytes: int = Field(
        default=16 * 2**20, ge=1024, description="Size of a request's body."
    )
    max_frame_bytes: int = Field(
        default=4 * 2**20, ge=1024, le=15 * 2**20, description="Size of a realtime frame."
    )
    realtime_idle_s: float = Field(
        default=60.0, gt=0, description="A realtime session without a frame for so long ends."
    )
    max_artifact_bytes: int = Field(default=256 * 2**20, ge=1, description="Size of one artifact.")
    max_upload_bytes: int = Field(
        default=2 * 2**30, ge=1, description="Size of a file that a client uploads."
    )
    min_free_disk_bytes: int = Field(
        default=512 * 2**20, ge=0, description="Below this much free disk, submits are refused."
    )
    allow_private_urls: bool = Field(
        default=False, description="URLs in inputs may lead to private addresses."
    )
    allow_private_webhooks: bool = Field(
        default=False, description="Webhooks may call private addresses."
    )
    webhook_waits_s: tuple[Annotated[float, Field(ge=0)], ...] = Field(
        default=(5, 15, 30, 60, 120, 300, 900, 1800, 3600),
        description="Seconds between the tries of a webhook; after the last it is dead.",
    )
    webhook_give_up_s: float = Field(
        default=86_400.0,
        gt=0,
        description="A webhook that is pending for longer is dead, however seldom it was tried.",
    )
    previews: bool = Field(
        default=True, description="Pictures of running requests, made while somebody looks."
    )
    adapters_dir: Path | None = Field(
        default=None,
        description="Where each node keeps adapters that requests name. Unset: in the data "
        "directory.",
    )
    adapters_max_bytes: int = Field(
        default=10 * 2**30, ge=1, description="What those may take on the disk."
    )
    max_adapter_bytes: int = Field(
        default=2 * 2**30, ge=1, description="Size of one adapter that a request names."
    )
    s3_bucket: str | None = Field(
        default=None, description="Artifacts go to this bucket. Unset: to the data directory."
    )
    s3_endpoint_url: str | None = Field(
        default=None, description="Where the ingress and the replicas reach S3. Unset: AWS."
    )
    s3_region: str | None = Field(
        default=None, description="Region of the bucket. Unset: as AWS's own settings say."
    )
    s3_prefix: str | None = Field(default=None, description="Put before every key.")
    s3_path_style: bool | None = Field(
        default=None,
        description="The bucket is named in the path, not in the host. Unset: with an endpoint.",
    )
    s3_downloads: Literal["through", "redirect"] = Field(
        default="through", description="Files go through the ingress, or clients are sent to S3."
    )
    s3_public_endpoint_url: str | None = Field(
        default=None, description="Where clients reach S3. Unset: where the ingress does."
    )
    s3_conditional_writes: bool = Field(
        default=True, description="Uploads say `If-None-Match: *`; not every store takes it."
    )
    weights_dir: Path | None = Field(
        default=None, description="Where weights are kept. Unset: the hub's own cache, HF_HOME."
    )
    weights_max_bytes: int = Field(
        default=0, ge=0, description="What downloaded weights may take on the disk; 0: no cap."
    )
    weights_mirror: str | None = Field(
        default=None, description="`s3://bucket/prefix`: asked for weights before the hub."
    )
    weights_mirror_endpoint_url: str | None = Field(
        default=None, description="Where that bucket is. Unset: AWS."
    )
    weights_mirror_profile: str | None = Field(
        default=None, description="Profile in AWS's own files whose credentials open it."
    )
    offline: bool = Field(default=False, description="Weights are never fetched from anywhere.")
    metrics_port: int = Field(
        default=0, ge=0, le=65535, description="Prometheus metrics on loopback; 0: any free port."
    )
    log_file: Path | None = Field(
        default=None, description="Every process appends its log here, in place of stderr."
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"

    @property
    def serves_demo(self) -> bool:
        return self.gpus == 0 if self.demo is None else self.demo

    def weights_store(self) -> StoreConfig:
        """What whoever needs weights is told."""
        return StoreConfig(
            directory=self.weights_dir,
            max_bytes=self.weights_max_bytes,
            mirror=self.weights_mirror or "",
            mirror_endpoint_url=self.weights_mirror_endpoint_url or "",
            mirror_profile=self.weights_mirror_profile or "",
            offline=self.offline,
        )

    @field_validator(
        *("data_dir", "models", "log_file", "weights_dir", "adapters_dir"),
        *("tls_certificate", "tls_key"),
    )
    @classmethod
    def _absolute(cls, value: Path | None) -> Path | None:
        # Serve may build the application in another process with another working directory.
        return value.expanduser().absolute() if value is not None else None


class Secrets(BaseSettings):
    """Settings that are secret. Read in the ingress's start, and nowhere else."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="ignore", frozen=True)

    database_url: SecretStr | None = Field(
        default=None, description="PostgreSQL 15 or later. Unset: Darkroom runs its own."
    )
    api_key: SecretStr | None = Field(
        default=None, description="`id:secret` of the first key. Unset: one is made."
    )
    s3_access_key_id: SecretStr | None = Field(
        default=None, description="Unset: AWS's own chain of environment, files and roles."
    )
    s3_secret_access_key: SecretStr | None = Field(default=None)

    @field_validator("*", mode="before")
    @classmethod
    def _empty_is_unset(cls, value: object) -> object:
        # Replicas get these variables blanked; see SECRET_NAMES.
        return value or None


SECRET_NAMES = tuple(PREFIX + name.upper() for name in Secrets.model_fields)
"""Variables that are blanked in the processes of replicas."""

AWS_SECRET_NAMES = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
"""Blanked too when artifacts go to S3: these open the bucket."""


def read_config(arguments: Mapping[str, object]) -> Config:
    """``arguments`` over the environment. ``Misconfigured`` with every problem in a sentence."""
    try:
        return Config(**dict(arguments))  # pyright: ignore[reportArgumentType]  # checked by it
    except ValidationError as error:
        problems = (
            f"{'.'.join(str(part) for part in one['loc'])}: {one['msg']}" for one in error.errors()
        )
        raise Misconfigured(f"The configuration is not valid. {'; '.join(problems)}.") from None


def setting_names() -> frozenset[str]:
    """Every variable that Darkroom reads."""
    fields = (*Config.model_fields, *Secrets.model_fields)
    return frozenset(PREFIX + name.upper() for name in fields)


def refuse_unknown(environ: Mapping[str, str] | None = None) -> None:
    """Raise ``Misconfigured`` for a ``DARKROOM_`` variable that is no setting."""
    known = setting_names()
    given = os.environ if environ is None else environ  # noqa: TID251 this is the one reader
    unknown = sorted(name for name in given if name.startswith(PREFIX) and name not in known)
    if unknown:
        raise Misconfigured(
            f"Unknown setting {', '.join(unknown)}. Known are: {', '.join(sorted(known))}."
        )
