"""Settings by area. Each is one environment variable; see ``Config`` for how they are read."""

from __future__ import annotations

import re
from collections.abc import Mapping
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator

from serve_app.domain.endpoint import MODEL_ALIASES, StoreConfig
from serve_app.domain.executors.comfyui import ComfyUiConfig
from serve_app.paths import AbsolutePath
from serve_app.settings.bounds import MAX_BYTES, MAX_COUNT, MAX_DAYS
from serve_app.settings.comfyui import ComfyUiSettings
from serve_app.settings.pools import EndpointLimits, PoolConfig, TenantLimits, with_families
from serve_app.telemetry.logs import Format

PREFIX = "DARKROOM_"


def _local_gpus() -> int:
    """Number of NVIDIA device files, one per GPU. Counting needs neither torch nor a driver."""
    return len(list(Path("/dev").glob("nvidia[0-9]*")))


def _nodes(value: str) -> str:
    if value in ("head", "any") or re.fullmatch(r"[\w./-]+=[\w.-]+", value):
        return value
    raise ValueError("it should be head, any, or a label of Ray nodes such as role=ingress")


class SettingsGroup(BaseModel):
    """Settings of one area: ``DARKROOM_<NAME>`` in the environment, unless they are given."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False
    )


class ServerSettings(SettingsGroup):
    """Addresses and data of the server."""

    data_dir: AbsolutePath = Field(
        default=Path("~/.darkroom"),
        description="Directory of the embedded database, the artifacts and the API key.",
    )
    host: str = Field(default="127.0.0.1", description="Address of the HTTP port.")
    port: int = Field(default=8000, ge=1, le=65535, description="The HTTP port.")
    public_url: str | None = Field(
        default=None,
        description="Origin of all URLs in responses. Unset: the Host header of the request.",
    )
    trusted_hosts: tuple[str, ...] = Field(
        default=(),
        description="Host names under which clients reach Darkroom, besides this machine's own.",
    )
    trusted_proxies: tuple[IPv4Network | IPv6Network, ...] = Field(
        default=(),
        description="Addresses and networks of proxies whose X-Forwarded-Proto and "
        "X-Forwarded-For are believed.",
    )
    public_descriptions: bool = Field(
        default=True,
        description="Whoever reaches Darkroom reads `/llms.txt` and the texts of served endpoints "
        "of the built-in catalogue without a key. Other endpoints always need one.",
    )
    internal_url: str | None = Field(
        default=None, description="Origin at which replicas reach the ingress for uploads."
    )
    ingress_replicas: int = Field(default=1, ge=1, description="Replicas of the ingress.")
    ingress_nodes: Annotated[str, AfterValidator(_nodes)] = Field(
        default="head",
        description="Nodes for the ingress: `head`, `any`, or a label of Ray nodes, `key=value`.",
    )


class GatewaySettings(SettingsGroup):
    """TLS port and proxy port of ``darkroom serve``."""

    tls_port: int | None = Field(
        default=None,
        ge=0,
        le=65535,
        description="HTTPS port of `darkroom serve`. Unset: the HTTP port plus 443; 0: disabled.",
    )
    tls_certificate: AbsolutePath | None = Field(
        default=None,
        description="PEM file with the certificate and its chain. Unset: Darkroom creates one.",
    )
    tls_key: AbsolutePath | None = Field(
        default=None, description="PEM file with its key. Unset: in the certificate's file."
    )
    proxy_port: int | None = Field(
        default=None,
        ge=0,
        le=65535,
        description="Port of the CONNECT proxy of `darkroom serve`. Unset: the HTTP port plus 128; "
        "0: disabled.",
    )
    proxy_host: str = Field(default="127.0.0.1", description="Address of the proxy port.")


class TelemetrySettings(SettingsGroup):
    """Metrics and logs."""

    metrics_port: int = Field(
        default=0,
        ge=0,
        le=65535,
        description="Port of the Prometheus metrics; 0: any free port. Several ingress replicas on "
        "one node use the following ports.",
    )
    metrics_host: str = Field(
        default="127.0.0.1", description="Address of the Prometheus metrics, which need no key."
    )
    log_file: AbsolutePath | None = Field(
        default=None, description="Log file that all processes append to, instead of stderr."
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    log_format: Format = Field(default="text", description="`json`: one JSON object a line.")
    trace_tenants: bool = Field(
        default=False,
        description="Spans name the tenant. OpenTelemetry's own variables turn tracing on.",
    )


class ModelSettings(SettingsGroup):
    """Served models and the pools that compute them."""

    gpus: int = Field(
        default_factory=_local_gpus, ge=0, description="GPUs on this machine. Unset: detected."
    )
    demo: bool | None = Field(
        default=None, description="Serve the demo models. Unset: only on a machine without a GPU."
    )
    models: AbsolutePath | None = Field(
        default=None, description="Catalogue file beside the built-in one."
    )
    model_aliases: dict[str, str] = Field(
        default_factory=lambda: dict(MODEL_ALIASES),
        description="Model names of other protocols: name to endpoint.",
    )
    pools: dict[str, PoolConfig] | None = Field(
        default=None,
        description="Pools by name. Unset: one pool, `studio`, that hosts every family.",
    )
    families: dict[str, str] = Field(
        default_factory=dict, description="Additional families: name to `module:Class`."
    )
    comfyui: ComfyUiSettings | None = Field(
        default=None,
        description="ComfyUI, which runs workflows: `path` of its folder, or `address`; `python`, "
        "`models`, `nodes`, `arguments`, `start_timeout_s`.",
    )
    comfyui_page: AbsolutePath | None = Field(default=None, description="Folder of ComfyUI's page.")
    comfyui_host: str | None = Field(
        default=None,
        pattern=r"^[a-z0-9][a-z0-9.-]*$",
        description="Host name of ComfyUI's page, which has one of its own. Unset: on this machine "
        "`comfyui.localhost`, and none for others.",
    )
    tuning_file: AbsolutePath | None = Field(
        default=None,
        description="File with what `darkroom tune` has measured. "
        "Unset: `tuning.json` in the data directory.",
    )
    previews: bool = Field(
        default=True,
        description="Preview images of running requests, computed only while a client reads them.",
    )
    describe_files: bool = Field(
        default=True,
        description="Write prompt, endpoint, model, seed, settings and request id into generated "
        "files. Never done for requests with `X-Fal-Store-IO: 0`.",
    )
    thumbnails: bool = Field(
        default=True,
        description="A small image of each output file, made by the replica and stored beside it.",
    )

    @field_validator("pools")
    @classmethod
    def _overflow_of_known_pools(
        cls, value: dict[str, PoolConfig] | None
    ) -> dict[str, PoolConfig] | None:
        return value and with_families(value)

    @property
    def executors(self) -> Mapping[str, ComfyUiConfig]:
        """Settings of executors, by their family."""
        return {} if self.comfyui is None else {"comfyui": self.comfyui.config()}

    @property
    def serves_demo(self) -> bool:
        return self.gpus == 0 if self.demo is None else self.demo


class QueueSettings(SettingsGroup):
    """Leases, limits of tenants and endpoints, and retention."""

    lease_s: float = Field(default=30.0, gt=0, description="Duration of a lease without renewal.")
    first_lease_s: float = Field(
        default=5.0, gt=0, description="Duration of a lease before the replica confirms it."
    )
    ask_wait_s: float = Field(default=5.0, gt=0, description="How long a lease poll waits.")
    max_failures: int = Field(
        default=3, ge=1, description="Attempts that may crash before the request fails."
    )
    max_waiting: int = Field(
        default=100_000, ge=1, le=MAX_COUNT, description="Queued requests in total."
    )
    max_waiting_per_tenant: int = Field(default=50_000, ge=1, le=MAX_COUNT)
    max_waiting_bytes_per_tenant: int = Field(
        default=4 * 2**30,
        ge=1,
        le=MAX_BYTES,
        description="Bytes of the queued inputs above 64 KiB of a tenant.",
    )
    max_running_per_tenant: int | None = Field(
        default=None,
        ge=1,
        le=MAX_COUNT,
        description="Running requests of a tenant. Unset: no limit.",
    )
    request_cache_bytes: int = Field(
        default=256 * 2**20,
        ge=2**20,
        description="Memory of an ingress replica for requests that it has stored or read.",
    )
    tenant_limits: dict[str, TenantLimits] = Field(
        default_factory=dict, description="Weight and limits of individual tenants, by id."
    )
    endpoint_limits: dict[str, EndpointLimits] = Field(
        default_factory=dict, description="Limits of individual endpoints, by id."
    )
    retention_days: float | None = Field(
        default=None,
        gt=0,
        le=MAX_DAYS,
        description="Days after which ended requests are deleted. Unset: never.",
    )
    prompt_retention_days: float | None = Field(
        default=None,
        gt=0,
        le=MAX_DAYS,
        description="Days after which inputs, outputs and logs of ended requests are erased; the "
        "requests stay. Unset: with the request.",
    )
    file_retention_days: float | None = Field(
        default=None,
        gt=0,
        le=MAX_DAYS,
        description="Days after which output files and uploads are deleted. Unset: outputs with "
        "their request, uploads as `retention_days` says.",
    )
    audit_retention_days: float = Field(
        default=365.0,
        gt=0,
        le=MAX_DAYS,
        description="Days after which entries of the audit log are deleted.",
    )
    audit_anchor_file: AbsolutePath | None = Field(
        default=None,
        description="File to which each ingress process appends the last hash of the audit log, "
        "once a minute if it has changed. Keep it on another machine.",
    )


class WebhookSettings(SettingsGroup):
    """Delivery of webhooks."""

    webhook_retention_days: float | None = Field(
        default=None,
        gt=0,
        le=MAX_DAYS,
        description="Days after which webhooks that have ended are deleted, with the log of their "
        "tries. Unset: with their request.",
    )
    allow_private_webhooks: bool = Field(
        default=False, description="Allow webhooks to private addresses."
    )
    webhook_waits_s: tuple[Annotated[float, Field(ge=0)], ...] = Field(
        default=(5, 15, 30, 60, 120, 300, 900, 1800, 3600),
        description="Seconds between the tries of a webhook; after the last try it is dead.",
    )
    webhook_give_up_s: float = Field(
        default=86_400.0,
        gt=0,
        description="Age at which a pending webhook is dead, regardless of its tries.",
    )


class LimitSettings(SettingsGroup):
    """Limits of single requests, sessions and files."""

    max_body_bytes: int = Field(
        default=16 * 2**20, ge=1024, description="Maximum size of a request's body."
    )
    max_frame_bytes: int = Field(
        default=4 * 2**20, ge=1024, le=15 * 2**20, description="Maximum size of a realtime frame."
    )
    realtime_idle_s: float = Field(
        default=60.0, gt=0, description="Idle time after which a realtime session is closed."
    )
    max_sessions_per_tenant: int | None = Field(
        default=None,
        ge=1,
        description="Open realtime sessions of a tenant in a pool. Unset: "
        "half of the slots that the pool can have, at least 1.",
    )
    max_artifact_bytes: int = Field(
        default=256 * 2**20, ge=1, description="Maximum size of an artifact."
    )
    max_upload_bytes: int = Field(
        default=2 * 2**30, ge=1, description="Maximum size of a file that a client uploads."
    )
    max_uploads_bytes_per_tenant: int = Field(
        default=256 * 2**30,
        ge=1,
        le=MAX_BYTES,
        description="Bytes of all uploaded files of a tenant.",
    )
    max_open_uploads_per_tenant: int = Field(
        default=1000,
        ge=1,
        le=MAX_COUNT,
        description="Uploads of a tenant that were begun and not completed.",
    )
    max_batches_per_tenant: int = Field(
        default=20, ge=1, le=MAX_COUNT, description="Batches of a tenant that have not ended."
    )
    keep_drafts_s: float = Field(
        default=86_400.0,
        gt=0,
        le=7 * 86_400.0,
        description="Time that drafts stay after their request has ended.",
    )
    max_drafts_bytes_per_tenant: int = Field(
        default=4 * 2**30,
        ge=1,
        le=MAX_BYTES,
        description="Bytes of all drafts of a tenant. Above it, requests make no more drafts.",
    )
    max_weights_bytes_per_tenant: int = Field(
        default=128 * 2**30,
        ge=1,
        le=MAX_BYTES,
        description="Bytes of all weights that a tenant has registered.",
    )
    max_private_endpoints_per_tenant: int = Field(
        default=20, ge=0, le=MAX_COUNT, description="Private endpoints of a tenant. 0: none."
    )
    min_free_disk_bytes: int = Field(
        default=512 * 2**20,
        ge=0,
        description="Requests are refused while the disk has less free space than this.",
    )
    min_free_disk_bytes_for_uploads: int = Field(
        default=2**30,
        ge=0,
        description="Uploads of clients are refused while the disk has less free space than this.",
    )
    min_free_disk_bytes_for_artifacts: int = Field(
        default=128 * 2**20,
        ge=0,
        description="Artifacts are refused while the disk has less free space than this.",
    )
    min_download_bytes_per_s: int = Field(
        default=64 * 2**10,
        ge=0,
        description="Rate below which the download of an input file or LoRA fails; 0: no limit.",
    )
    allow_private_urls: bool = Field(
        default=False, description="Allow URLs in inputs to use private addresses."
    )


class StorageSettings(SettingsGroup):
    """Storage of artifacts in S3."""

    s3_bucket: str | None = Field(
        default=None, description="Bucket for artifacts. Unset: the data directory."
    )
    s3_endpoint_url: str | None = Field(
        default=None, description="S3 endpoint for the ingress and the replicas. Unset: AWS."
    )
    s3_region: str | None = Field(
        default=None, description="Region of the bucket. Unset: from AWS's own settings."
    )
    s3_prefix: str | None = Field(default=None, description="Prefix of every key.")
    s3_path_style: bool | None = Field(
        default=None,
        description="Put the bucket name in the path instead of the host name. Unset: only with a "
        "custom endpoint.",
    )
    s3_downloads: Literal["through", "redirect"] = Field(
        default="through",
        description="Downloads go through the ingress, or clients are redirected to S3.",
    )
    s3_public_endpoint_url: str | None = Field(
        default=None, description="S3 endpoint for clients. Unset: the same as for the ingress."
    )
    s3_conditional_writes: bool | None = Field(
        default=None,
        description="Uploads send `If-None-Match: *`, which some stores do not support. Unset: by "
        "the provider.",
    )
    s3_provider: Literal["aws", "minio", "r2", "gcs", "ceph", "b2", "swift", "other"] | None = (
        Field(
            default=None,
            description="Kind of store. Unset: by the host name of the endpoint, or `other`.",
        )
    )
    s3_checksum: Literal["sha256", "crc32", "none"] | None = Field(
        default=None,
        description="Checksum that uploads send besides Content-MD5. Unset: by the provider.",
    )
    s3_encryption: Literal["AES256", "aws:kms"] | None = Field(
        default=None,
        description="Server-side encryption that every upload asks for: SSE-S3 or SSE-KMS. Unset: "
        "as the bucket does by itself.",
    )
    s3_kms_key_id: str | None = Field(
        default=None,
        description="Key of SSE-KMS. Unset: the default key of the account.",
    )
    storage_locations: AbsolutePath | None = Field(
        default=None, description="YAML file with buckets for the files of tenants, by their ids."
    )


class WeightSettings(SettingsGroup):
    """Storage of downloaded weights."""

    weights_dir: AbsolutePath | None = Field(
        default=None, description="Directory of the weights. Unset: the hub's own cache, HF_HOME."
    )
    weights_shared_dir: AbsolutePath | None = Field(
        default=None,
        description="Directory, such as a read-only volume, whose weights are used where they are. "
        "Filled by `darkroom models pull`.",
    )
    weights_max_bytes: int = Field(
        default=0, ge=0, description="Maximum disk space of downloaded weights; 0: no limit."
    )
    weights_mirror: str | None = Field(
        default=None, description="Mirror `s3://bucket/prefix` that is tried before the hub."
    )
    weights_mirror_endpoint_url: str | None = Field(
        default=None, description="S3 endpoint of the mirror. Unset: AWS."
    )
    weights_mirror_profile: str | None = Field(
        default=None, description="Profile in AWS's own files with credentials for the mirror."
    )
    weights_peers: int = Field(
        default=0,
        ge=0,
        description="Other nodes that a replica sends its weights to at once; 0: nodes do not "
        "exchange weights.",
    )
    weights_peer_bytes_per_s: int = Field(
        default=500_000_000,
        ge=0,
        description="Bytes a second that a replica sends to other nodes, in total; 0: no limit.",
    )
    offline: bool = Field(default=False, description="Never download weights.")
    share_hub_token: bool = Field(
        default=True,
        description="Tenants without a token of their own use the operator's HF_TOKEN, for LoRAs "
        "in requests and weights that they register.",
    )

    def store(self) -> StoreConfig:
        """Settings of the weight store."""
        return StoreConfig(
            directory=self.weights_dir,
            max_bytes=self.weights_max_bytes,
            mirror=self.weights_mirror or "",
            mirror_endpoint_url=self.weights_mirror_endpoint_url or "",
            mirror_profile=self.weights_mirror_profile or "",
            offline=self.offline,
            shared_directory=self.weights_shared_dir,
            peers=self.weights_peers,
            peer_bytes_per_s=self.weights_peer_bytes_per_s,
        )


class LoraSettings(SettingsGroup):
    """LoRAs that requests name."""

    adapters_dir: AbsolutePath | None = Field(
        default=None,
        description="Directory on each node for LoRAs that requests name. Unset: in the data "
        "directory.",
    )
    adapters_max_bytes: int = Field(
        default=10 * 2**30, ge=1, description="Maximum disk space of these LoRAs."
    )
    max_adapter_bytes: int = Field(
        default=2 * 2**30, ge=1, description="Maximum size of a LoRA that a request names."
    )
