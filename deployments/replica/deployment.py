"""Ray Serve deployment class of a pool with an engine."""

from __future__ import annotations

import asyncio
import gc
import logging
import sys
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

import ray

from deployments.engine.accelerator.allocator import use_expandable_segments
from deployments.engine.media.scratch import remove_abandoned
from deployments.engine.threads import Threads
from deployments.families.base import load_families, model_rules_of
from deployments.ingress_client.handle import HandleLeasePort
from deployments.replica.config import ReplicaConfig, connect, make_fetcher, make_uploader
from deployments.replica.engine_replica import EngineReplica
from deployments.replica.ranks import RankGroup
from deployments.replica.resources import ReplicaResources
from deployments.replica.serving import ReplicaDeployment, end_process
from deployments.replica.tuned import tuned_recipes
from deployments.safety.checkers import Checkers
from deployments.transfer.lora_cache import LoraCache
from deployments.transfer.lora_fetcher import LOCATE_S, LoraFetcher
from deployments.transfer.uploader import Backoff, StorageCalls
from serve_app.domain.errors import Misconfigured
from serve_app.domain.lease import LeaseKey
from serve_app.domain.ports import Clock, PeerDirectory, WeightFiles
from serve_app.domain.realtime import Frame, FrameResult
from serve_app.serve_grpc import reachable_address
from weights.hub import Hub
from weights.registered import LocateFile
from weights.repository_files import RepositoryFiles
from weights.store import FindPeers, Store

if TYPE_CHECKING:  # it imports an HTTP server
    from deployments.replica.weight_peers import WeightExchange

log = logging.getLogger(__name__)

ENCODERS = 2  # threads that write and read images and snapshots
WRITERS = 2  # threads that write videos and audio; they are slow, so images do not wait for them

SWITCH_S = 0.0002
"""Interpreter switch interval, in seconds. torch releases the GIL in each of its calls. With
Python's default of 5 ms, the engine waits that long to get it back whenever another thread runs.
Measured: sixteen images of the demo Flux, beside a thread that computed for 5 of every 15 ms, took
0.95 s, and 0.79 s with a tenth of a millisecond."""


class EngineDeployment(ReplicaDeployment[EngineReplica]):
    """Deployment of a pool whose replicas have an engine."""

    _exchange: WeightExchange | None = None

    async def __init__(  # Serve awaits it
        self,
        pool: str,
        config: ReplicaConfig,
        family_paths: Mapping[str, str],
        ingress_name: str,
        app_name: str | None = None,
    ) -> None:
        """``app_name``: application of the ingress. None: the same application as this replica."""
        await asyncio.to_thread(remove_abandoned)
        connection = connect(pool, config, ingress_name, app_name)
        handle_port, link, self._port = connection.handle, connection.link, connection.port
        exchange = self._exchange = weight_exchange(
            config, handle_port, link.identity.replica_id, link.clock
        )
        if exchange is not None:
            await exchange.start()
        self._replica = EngineReplica(
            link,
            load_families(family_paths),
            partial(
                make_resources,
                config,
                family_paths,
                link.clock,
                link.backoff,
                find_peers=None if exchange is None else exchange.source,
                port=handle_port,
                locate=_locator(handle_port),
            ),
            config,
            end_process=end_process,
        )
        await self._replica.start()

    # Called by the ingress for realtime sessions. ``replica_id`` routed the call to this replica.

    async def generate_frame(
        self, replica_id: str, lease_key: LeaseKey, frame: Frame
    ) -> FrameResult:
        del replica_id
        return await self._started.sessions.generate_frame(lease_key, frame)

    async def end_session(self, replica_id: str, lease_key: LeaseKey) -> None:
        del replica_id
        self._started.sessions.end(lease_key)

    async def _aclose(self) -> None:
        if self._exchange is not None:
            await self._exchange.aclose()


def weight_exchange(
    config: ReplicaConfig, directory: PeerDirectory, replica_id: str, clock: Clock
) -> WeightExchange | None:
    """Exchange of weights with other nodes. None if it is off, or other nodes cannot reach this
    one."""
    host = reachable_address()
    weights = config.weights
    if not weights.peers or weights.offline or not host:
        return None
    from deployments.replica.weight_peers import PeerIdentity, WeightExchange  # noqa: PLC0415

    node_id = ray.get_runtime_context().get_node_id()
    return WeightExchange(directory, PeerIdentity(replica_id, node_id, host), weights, clock)


def make_resources(
    config: ReplicaConfig,
    family_paths: Mapping[str, str],
    clock: Clock,
    backoff: Backoff,
    find_peers: FindPeers | None = None,
    port: HandleLeasePort | None = None,
    locate: LocateFile | None = None,
) -> ReplicaResources:
    """Create the real resources: an engine on the GPU, or on the CPU if there is no GPU.
    ``port`` signs files and records decisions. ``locate`` finds registered files.

    Raises ``Misconfigured`` if the pool asks for GPUs and torch cannot use the one that is there.
    """
    use_expandable_segments()
    with _importing():  # imported here because the control plane must not import torch
        from deployments.engine.accelerator.diagnosis import (  # noqa: PLC0415
            gpu_present,
            gpu_problem,
        )
        from deployments.engine.accelerator.selection import (  # noqa: PLC0415
            accelerator_for,
            usual_device,
        )
        from deployments.engine.engine import Engine  # noqa: PLC0415
        from deployments.engine.loading.residency import Residency  # noqa: PLC0415

    sys.setswitchinterval(SWITCH_S)
    device = config.device or usual_device()
    if config.needs_gpu and device == "cpu":
        if gpu_present():
            raise Misconfigured(f"This pool's replicas need a GPU (num_gpus), and {gpu_problem()}")
        # Ray was told of one, such as by `ray start --num-gpus` to try out a cluster without any.
        log.warning("The pool has num_gpus, and this node has no GPU: the CPU computes.")

    store = Store(config.weights, find_peers=find_peers, locate=locate)

    ranks = RankGroup(config, family_paths, device) if config.devices > 1 else None
    if ranks is not None:
        ranks.start()
    accelerator = accelerator_for(device)
    slots = config.slots_on(accelerator.memory.total() or 0)
    engine = Engine(
        device=accelerator,
        max_batch=slots,  # all running generations may share a forward pass
        threads=config.threads,
        verify_merges=True,  # once per signature, against images that are silently wrong
        lora_bytes=config.loras.device_bytes,
        traits=model_rules_of(load_families(family_paths)),
    )
    if ranks is not None:
        engine.count_parallel_calls(ranks.ways)
    transfers, calls = config.transfers, StorageCalls()
    return ReplicaResources(
        engine=engine,
        slots=slots,
        residency=Residency(
            engine,
            config.weights_bytes,
            # The followers of several devices would keep theirs on the devices.
            warm_share=config.warm_weights_share if ranks is None else 0.0,
            quantized=store.derived_files(),
        ),
        uploader=make_uploader(transfers, clock, backoff, calls),
        fetcher=make_fetcher(transfers, transfers.max_input_bytes, calls=calls),
        snapshot_fetcher=make_fetcher(transfers, config.snapshots.max_bytes, calls=calls),
        storage_calls=calls,
        loras=_lora_fetcher(config, clock, port, calls, offline=store.offline),
        encoders=Threads(ENCODERS, thread_name_prefix="encoder"),
        writers=Threads(WRITERS, thread_name_prefix="writer"),
        clock=clock,
        checkers=Checkers(store),
        safety_log=port,
        signer=port,
        # On a CPU, warm-up takes as long as an image does, and saves no time.
        warms_up=config.warm_up and device != "cpu",
        store=store,
        share_caches=config.share_caches,
        ranks=ranks,
        # Several devices compute differently from the one that was measured.
        tuned=tuned_recipes(config.tuning_file if ranks is None else None, engine.accelerator),
    )


def _locator(files: WeightFiles) -> LocateFile:
    """Finder of registered files, for other threads than that of the running event loop."""
    loop = asyncio.get_running_loop()

    def locate(digest: str) -> str:
        call = asyncio.run_coroutine_threadsafe(files.weight_file(digest), loop)
        return call.result(LOCATE_S)

    return locate


def _lora_fetcher(
    config: ReplicaConfig,
    clock: Clock,
    files: WeightFiles | None,
    calls: StorageCalls,
    *,
    offline: bool,
) -> LoraFetcher:
    loras = config.loras
    # Fewer retries than for a model's weights: a request is waiting.
    store = Store(config.weights, lambda: Hub(tries=2))
    return LoraFetcher(
        make_fetcher(
            config.transfers,
            loras.max_file_bytes,
            loras.fetch_timeout_s,
            offline=offline,
            calls=calls,
        ),
        RepositoryFiles(store),
        LoraCache(loras.cache_dir, loras.cache_max_bytes, clock.now),
        clock,
        loras.max_file_bytes,
        None if files is None else files.weight_file,
    )


@contextmanager
def _importing() -> Generator[None]:
    """Disable garbage collection during an import. Modules live as long as the process, so scanning
    them repeatedly is wasted: importing torch and diffusers takes 4.7 s of CPU with it, and 3.6 s
    without."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()  # exclude the imported objects from later collections too
        gc.enable()
