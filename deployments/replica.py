"""The deployment class of a pool: what Serve creates, checks and deletes."""

from __future__ import annotations

import gc
import sys
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from functools import partial
from random import SystemRandom

import ray
from ray import serve

from deployments import fetching
from deployments.adapter_cache import AdapterCache
from deployments.adapter_fetching import AdapterFetcher
from deployments.backoff import Backoff
from deployments.core import ReplicaCore
from deployments.engine.threads import Threads
from deployments.family import declarations_of, load_families
from deployments.followers import Followers
from deployments.handle_port import HandleLeasePort
from deployments.line_port import LineLeasePort
from deployments.replica_config import Identity, ReplicaConfig
from deployments.upload import Uploader, http_client
from deployments.workshop import Workshop
from serve_app.domain.addresses import resolve
from serve_app.domain.errors import Unavailable
from serve_app.domain.lease import Held
from serve_app.domain.ports import Clock
from serve_app.domain.session import Drawn, Frame
from serve_app.loopback import keep_to_loopback
from serve_app.telemetry import logs
from serve_app.telemetry.clock import SystemClock
from weights.hub import Hub
from weights.repository_files import RepositoryFiles
from weights.store import Store

__all__ = ["Replica", "ReplicaConfig"]

ENCODERS = 2  # threads that write and read pictures, and what is kept of generations
WRITERS = 2  # threads that write clips and sounds, which takes long: pictures do not wait for them

SWITCH_S = 0.0002
"""For which a thread may keep Python while another waits. torch gives it away at each of its calls,
and by Python's 5 ms the engine waits so long for it, each time that another thread is at work.
Sixteen pictures of the demo Flux beside a thread that computed for 5 of 15 ms took 0.95 s, and
0.79 s with a tenth of a millisecond."""


class Replica:
    """Wired here, works in ``ReplicaCore``. Serve's constructor is async, so it starts what it
    makes."""

    _core: ReplicaCore | None = None
    _port: LineLeasePort | None = None

    async def __init__(  # pyright: ignore[reportGeneralTypeIssues]  # Serve awaits it
        self,
        pool: str,
        config: ReplicaConfig,
        family_paths: Mapping[str, str],
        ingress_name: str,
        app_name: str | None = None,
    ) -> None:
        """``app_name``: where the ingress is; None: in this replica's own application."""
        keep_to_loopback()
        logs.configure(config.log_level, logs.stream(config.log_file))
        logs.quiet_serve()
        context = serve.get_replica_context()
        identity = Identity(
            replica_id=context.replica_id.unique_id,
            actor_id=ray.get_runtime_context().get_actor_id() or "",
            pool=pool,
        )
        clock, backoff = SystemClock(), Backoff(SystemRandom())
        handle = serve.get_deployment_handle(ingress_name, app_name or context.app_name)
        handle_port = HandleLeasePort(handle)
        self._port = LineLeasePort(handle_port, handle_port.line)
        self._core = ReplicaCore(
            self._port,
            load_families(family_paths),
            partial(make_workshop, config, family_paths, clock, backoff),
            config,
            identity,
            clock,
            backoff,
        )
        await self._core.start()

    # What the ingress calls, for realtime sessions. ``replica_id`` has led the call here.

    async def draw(self, replica_id: str, held: Held, frame: Frame) -> Drawn:
        del replica_id
        return await self._started.sessions.draw(held, frame)

    async def end_session(self, replica_id: str, held: Held) -> None:
        del replica_id
        self._started.sessions.end(held)

    @property
    def _started(self) -> ReplicaCore:
        if self._core is None:
            raise Unavailable("The replica has not started.")
        return self._core

    async def check_health(self) -> None:
        """Serve replaces the replica when this raises."""
        if self._core is not None:
            self._core.check()

    async def __del__(self) -> None:
        if self._core is not None:
            await self._core.aclose()
        if self._port is not None:
            await self._port.aclose()


def make_workshop(
    config: ReplicaConfig, family_paths: Mapping[str, str], clock: Clock, backoff: Backoff
) -> Workshop:
    """The real one: an engine on the GPU, or on the CPU where there is none."""
    with _importing():  # not in the control plane
        import torch  # noqa: PLC0415

        from deployments.engine.engine import Engine  # noqa: PLC0415
        from deployments.engine.residency import Residency  # noqa: PLC0415

    sys.setswitchinterval(SWITCH_S)
    device = config.device or ("cuda" if torch.cuda.is_available() else "cpu")

    store = Store(config.weights)

    def fetcher(max_bytes: int, *, of_weights: bool = False) -> fetching.Fetcher:
        return fetching.Fetcher(
            fetching.http_client(),
            resolve,
            max_bytes=max_bytes,
            timeout_s=config.adapter_timeout_s if of_weights else config.fetch_timeout_s,
            allow_private=config.allow_private_urls,
            offline=of_weights and store.offline,
        )

    followers = Followers(config, family_paths, device) if config.devices > 1 else None
    if followers is not None:
        followers.start()
    engine = Engine(
        device=device,
        max_batch=config.slots,  # all that run may share a forward
        threads=config.threads,
        verify_merges=True,  # once per signature, against a picture that is silently wrong
        adapter_bytes=config.adapter_bytes,
        declarations=declarations_of(load_families(family_paths)),
    )
    # A request does not wait through all the tries that a model's weights are worth.
    adapter_store = Store(config.weights, lambda: Hub(tries=2))
    return Workshop(
        engine=engine,
        residency=Residency(engine, config.weights_bytes),
        uploader=Uploader(http_client(), clock, backoff, config.upload_give_up_s),
        fetcher=fetcher(config.max_input_bytes),
        snapshot_fetcher=fetcher(config.max_snapshot_bytes),
        adapters=AdapterFetcher(
            fetcher(config.max_adapter_bytes, of_weights=True),
            RepositoryFiles(adapter_store),
            AdapterCache(config.adapters_dir, config.adapters_max_bytes, clock.now),
            clock,
            config.max_adapter_bytes,
        ),
        encoders=Threads(ENCODERS, thread_name_prefix="encoder"),
        writers=Threads(WRITERS, thread_name_prefix="writer"),
        clock=clock,
        # On a CPU it would take as long as a picture does, and save nobody anything.
        warms_up=config.warm_up and device != "cpu",
        store=store,
        followers=followers,
    )


@contextmanager
def _importing() -> Generator[None]:
    """What modules make lives as long as the process. Looked through for garbage again and again
    while it grows, torch and diffusers take a core 4.7 s, and 3.6 s so."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()  # nor is it looked through later
        gc.enable()
