"""Configuration and identity of a replica, and its link to the ingress."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from random import SystemRandom
from tempfile import gettempdir
from typing import TYPE_CHECKING, Any

from deployments.transfer.fetcher import Fetcher, MinRate, OwnStorage, fetcher_client
from deployments.transfer.policy_uploader import policy_uploader
from deployments.transfer.uploader import Backoff, StorageCalls, Uploader, http_client
from serve_app.domain.endpoint import RESERVED_SHARE, StoreConfig
from serve_app.domain.name_resolution import MAX_THREADS, NameResolver
from serve_app.domain.ports import Clock, LeasePort
from serve_app.telemetry import logs
from serve_app.telemetry.clock import SystemClock
from serve_app.telemetry.logs import Format

if TYPE_CHECKING:
    from deployments.ingress_client.handle import HandleLeasePort
    from deployments.ingress_client.local import LocalLeasePort


@dataclass(frozen=True, slots=True)
class IngressCalls:
    """Intervals and timeouts of a replica's calls to the ingress."""

    start_interval_s: float = 2.0  # between announcements of what a starting replica loads
    decision_within_s: float = 10.0  # on what a starting replica loads; then it starts without
    report_interval_s: float = 0.5
    confirm_after_s: float = 0.2  # a lease that runs so long is reported; at most a tenth of it
    full_grace_s: float = 0.02  # how long all slots are taken before a lease poll says so
    call_timeout_s: float = 10.0  # for each call except ``ask``
    full_tenant_wait_s: float = 0.2  # of a poll that leaves tenants out, until it is sent again
    ask_timeout_s: float = 30.0  # far longer than a lease poll waits at the ingress
    finish_give_up_s: float = 600.0


@dataclass(frozen=True, slots=True)
class SnapshotConfig:
    """Frequency and size of snapshots."""

    interval_s: float = 10.0  # between two of one generation; 0: only at shutdown
    worth_s: float = 1.0  # at shutdown: least engine time since the last snapshot
    max_bytes: int = 2 * 2**30


@dataclass(frozen=True, slots=True)
class TransferConfig:
    """Limits of input files and uploads."""

    max_input_bytes: int = 64 * 2**20  # per input file
    fetch_timeout_s: float = 60.0  # per input file
    allow_private_urls: bool = False  # for input files
    min_bytes_per_s: int = 64 * 2**10  # of servers of input files and LoRAs; 0: no limit
    upload_give_up_s: float = 300.0


@dataclass(frozen=True, slots=True)
class LoraConfig:
    """Limits of the LoRAs that inputs name."""

    device_bytes: int = 0  # limit for LoRAs on the device, in use or cached; 0: by its memory
    cache_dir: Path = Path(gettempdir()) / "darkroom-adapters"  # on this node
    cache_max_bytes: int = 10 * 2**30
    max_file_bytes: int = 2 * 2**30  # per LoRA file
    fetch_timeout_s: float = 600.0  # per LoRA file


@dataclass(frozen=True, slots=True)
class ReplicaConfig:
    """Settings of a pool's replicas. Sent between processes, so it contains no secret."""

    slots: int = 2  # generations that the engine interleaves, on a device with unknown memory
    slots_by_memory: Mapping[float, int] = field(default_factory=dict[float, int])
    """The same by the least memory of a GPU in GB, ascending. Empty: ``slots`` on every device."""
    devices: int = 1  # GPUs that compute each denoiser call together
    threads: int = 0  # of torch, on a CPU; 0: torch's default
    device: str = ""  # empty: the GPU if there is one, else the CPU
    needs_gpu: bool = False  # its pool asks for GPUs: the CPU is no substitute
    weights_bytes: int = 0  # limit for loaded weights; 0: derived from the device's memory
    warm_weights_share: float = 0.4  # of the host's memory, for weights evicted from a GPU
    warm_up: bool = True  # on a GPU: a short generation after loading
    prefetch: bool = True  # load what queued requests need next, while others run
    graceful_shutdown_timeout_s: float = 20.0
    session_silence_s: float = 75.0  # ends a realtime session without frames: its ingress is gone
    stuck_after_s: float = 600.0  # of one turn of the engine, or ten times its longest
    calls: IngressCalls = IngressCalls()
    snapshots: SnapshotConfig = SnapshotConfig()
    transfers: TransferConfig = TransferConfig()
    loras: LoraConfig = LoraConfig()
    share_caches: bool = False  # text encoder outputs and LoRA files, among tenants
    apps_dir: Path = Path(gettempdir()) / "darkroom-apps"  # code and environments, on this node
    executors: Mapping[str, Any] = field(default_factory=dict[str, Any])  # settings, by family
    max_apps: int = 4  # apps whose processes run at once, on a replica without a GPU
    tuning_file: Path | None = None  # kept by `darkroom tune` on this node
    weights: StoreConfig = field(default_factory=StoreConfig)  # storage and source of weights
    log_level: str = "INFO"
    log_file: Path | None = None  # None: stderr
    log_format: Format = "text"

    def slots_on(self, device_bytes: int) -> int:
        """Slots on a device with ``device_bytes``; 0 bytes: a CPU."""
        enough = [
            slots
            for least_gb, slots in self.slots_by_memory.items()
            if least_gb * (1 - RESERVED_SHARE) * 1e9 <= device_bytes
        ]
        return enough[-1] if enough and device_bytes else self.slots

    @property
    def close_within_s(self) -> float:
        """Time to close. Serve kills the replica at its timeout and needs a part of it itself."""
        return max(self.graceful_shutdown_timeout_s - 5.0, 0.5)


@dataclass(frozen=True, slots=True)
class ReplicaIdentity:
    """Identity of a replica to the ingress."""

    replica_id: str
    actor_id: str  # Ray's, hex
    pool: str
    node: str = ""  # address of its machine


@dataclass(frozen=True, slots=True)
class IngressLink:
    """The ingress as a replica calls it: the port, the caller's identity, timing and retries."""

    port: LeasePort
    identity: ReplicaIdentity
    calls: IngressCalls
    clock: Clock
    backoff: Backoff


@dataclass(frozen=True, slots=True)
class IngressConnection:
    """A replica's connection to the ingress."""

    handle: HandleLeasePort  # for the calls that only some replicas make
    port: LocalLeasePort  # the one of ``link``; to close
    link: IngressLink


def connect(
    pool: str, config: ReplicaConfig, ingress_name: str, app_name: str | None
) -> IngressConnection:
    """Set up the logs of this process, and connect it to the ingress. Call it in a replica.

    ``app_name``: application of the ingress. None: the same application as this replica.
    """
    # What only reads configurations, or runs in the ingress, starts without Ray and its libraries.
    import ray  # noqa: PLC0415
    from ray import serve  # noqa: PLC0415

    from deployments.ingress_client.handle import HandleLeasePort  # noqa: PLC0415
    from deployments.ingress_client.local import LocalLeasePort  # noqa: PLC0415
    from serve_app.serve_grpc import prepare_calls  # noqa: PLC0415

    prepare_calls()
    logs.configure(config.log_level, logs.stream(config.log_file), config.log_format)
    logs.quiet_serve()
    context = serve.get_replica_context()
    identity = ReplicaIdentity(
        replica_id=context.replica_id.unique_id,
        actor_id=ray.get_runtime_context().get_actor_id() or "",
        pool=pool,
        node=ray.util.get_node_ip_address(),
    )
    # Not checked: the pool may be deployed before the ingress, and calls wait for that.
    serve_handle = serve.get_deployment_handle(
        ingress_name, app_name or context.app_name, _check_exists=False
    )
    handle = HandleLeasePort(serve_handle)
    port = LocalLeasePort(handle, handle.socket_path, find_remote=handle.remote_line)
    link = IngressLink(port, identity, config.calls, SystemClock(), Backoff(SystemRandom()))
    return IngressConnection(handle, port, link)


def make_fetcher(
    transfers: TransferConfig,
    max_bytes: int,
    timeout_s: float | None = None,
    *,
    offline: bool = False,
    calls: StorageCalls | None = None,
) -> Fetcher:
    """Fetcher of files of at most ``max_bytes``. ``timeout_s``: None for that of input files.
    ``calls``: counts those of our own storage."""
    return Fetcher(
        fetcher_client(),
        NameResolver(per_tenant=MAX_THREADS),
        max_bytes=max_bytes,
        timeout_s=transfers.fetch_timeout_s if timeout_s is None else timeout_s,
        allow_private=transfers.allow_private_urls,
        offline=offline,
        min_rate=MinRate(transfers.min_bytes_per_s),
        own=None if calls is None else OwnStorage(calls),
    )


def make_uploader(
    transfers: TransferConfig, clock: Clock, backoff: Backoff, calls: StorageCalls
) -> Uploader:
    """Uploader to storage, and to the buckets that clients name."""
    give_up_s = transfers.upload_give_up_s
    buckets = policy_uploader(clock, backoff, give_up_s, allow_private=transfers.allow_private_urls)
    return Uploader(http_client(), clock, backoff, give_up_s, buckets, calls)
