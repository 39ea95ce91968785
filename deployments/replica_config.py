"""What a replica is told, and who it is."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from tempfile import gettempdir

from serve_app.domain.endpoint import Endpoint
from serve_app.domain.store_config import StoreConfig


@dataclass(frozen=True, slots=True)
class ReplicaConfig:
    """Settings of a pool's replicas. Crosses processes, so it holds no secret."""

    slots: int = 2  # generations that the engine interleaves
    devices: int = 1  # that compute each denoiser call together
    threads: int = 0  # torch's, on a CPU; 0: torch's own choice
    device: str = ""  # empty: the GPU where there is one, else the CPU
    weights_bytes: int = 0  # what may be loaded at once; 0: by the device's memory
    warm_up: bool = True  # on a GPU: a short generation after loading
    preload: tuple[Endpoint, ...] = ()  # loaded before the replica says that it is ready
    graceful_shutdown_timeout_s: float = 20.0
    start_interval_s: float = 2.0  # how often a replica that starts says what it loads
    report_interval_s: float = 0.5
    snapshot_interval_s: float = 10.0  # between two of one generation; 0: only at the end
    snapshot_worth_s: float = 1.0  # when closing: of what has run as long since its last one
    max_snapshot_bytes: int = 2 * 2**30
    session_silence_s: float = 75.0  # of a realtime session; then its ingress is gone
    stuck_after_s: float = 600.0  # of one turn of the engine, or ten times its longest
    confirm_within_s: float = 0.05  # a lease that still runs then is confirmed out of turn
    full_grace_s: float = 0.02  # how long all slots are taken before an ask says so
    call_timeout_s: float = 10.0  # for each call of the ingress but ``ask``
    ask_timeout_s: float = 30.0  # far beyond what an ask waits there
    finish_give_up_s: float = 600.0
    upload_give_up_s: float = 300.0
    max_input_bytes: int = 64 * 2**20  # of a file that an input names
    fetch_timeout_s: float = 60.0  # for one such file
    allow_private_urls: bool = False  # of such files
    adapter_bytes: int = 2**30  # of adapters on the device, in use or kept
    adapters_dir: Path = Path(gettempdir()) / "darkroom-adapters"  # on this node
    adapters_max_bytes: int = 10 * 2**30  # of what is kept there
    max_adapter_bytes: int = 2 * 2**30  # of one that an input names
    adapter_timeout_s: float = 600.0  # for one such file
    weights: StoreConfig = field(default_factory=StoreConfig)  # where they lie and come from
    log_level: str = "INFO"
    log_file: Path | None = None  # None: stderr

    @property
    def close_within_s(self) -> float:
        """Serve kills what has not closed in time, and needs some of it for itself."""
        return max(self.graceful_shutdown_timeout_s - 5.0, 0.5)


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a replica is to the ingress."""

    replica_id: str
    actor_id: str  # Ray's, hex
    pool: str
