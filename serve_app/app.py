"""The composition root: configuration in, Serve application out.

``serve run serve_app.app:build`` and ``darkroom serve`` both come through here. ``build`` is pure:
it starts no process and touches no file or network, because with a YAML configuration Serve runs it
in another process with another working directory. It is the only code that binds deployments, and
the only code of ``serve_app`` that imports the data plane.
"""

import sys
from typing import Any

from ray import serve
from ray.serve import Application, Deployment
from ray.serve.config import AutoscalingConfig, AutoscalingPolicy

from deployments.families import FAMILIES, ON_ONE_DEVICE
from deployments.replica import Replica, ReplicaConfig
from serve_app.domain.errors import Misconfigured
from serve_app.ingress.deployment import Ingress
from serve_app.ingress.seat_router import SeatRouter
from serve_app.scaling.policy import PoolPolicy
from serve_app.settings import (
    AWS_SECRET_NAMES,
    SECRET_NAMES,
    Config,
    PoolConfig,
    read_config,
    refuse_unknown,
)
from serve_app.storage.s3.location import location_of
from weights.mirror import bucket_of

APPLICATION = "darkroom"
INGRESS = "ingress"
SEAT_ROUTER = f"{SeatRouter.__module__}:{SeatRouter.__name__}"
LOOPBACK = "lo0" if sys.platform == "darwin" else "lo"
HEAD_NODE = "node:__internal_head__"  # the resource that Ray gives its head node


def build(args: dict[str, Any]) -> Application:
    """The application for these arguments, which are names of ``Config`` and win over the
    environment.

    Raises ``Misconfigured`` with a sentence that names the setting.
    """
    refuse_unknown()
    config = read_config(args)
    families = {**FAMILIES, **config.families}
    location_of(config)  # says what contradicts itself before anything starts
    if config.weights_mirror:
        bucket_of(config.weights_mirror)
    pools = config.pools or {"studio": _studio(config, families)}
    _check_pools(pools, families)
    config = config.model_copy(update={"pools": pools})
    children = [
        _pool(config, name, pool).bind(
            name, _replica_config(config, pool), {f: families[f] for f in pool.families}, INGRESS
        )
        for name, pool in pools.items()
    ]
    return _ingress(config).bind(config, children)


def hosted_families(config: Config) -> frozenset[str]:
    """Those that some pool of this configuration hosts."""
    if config.pools is None:
        return frozenset({**FAMILIES, **config.families})
    return frozenset(family for pool in config.pools.values() for family in pool.families)


def _studio(config: Config, families: dict[str, str]) -> PoolConfig:
    """One pool for every family: one process, one engine, one memory budget."""
    return PoolConfig(families=tuple(families), num_gpus=1 if config.gpus else 0)


def _check_pools(pools: dict[str, PoolConfig], families: dict[str, str]) -> None:
    for name, pool in pools.items():
        unknown = sorted(set(pool.families) - set(families))
        if unknown:
            raise Misconfigured(
                f"Pool {name} hosts {', '.join(unknown)}, which no family is called. "
                f"Known: {', '.join(sorted(families))}."
            )
        if pool.min_replicas > pool.max_replicas:
            raise Misconfigured(f"Pool {name} has min_replicas over its max_replicas.")
        if pool.devices_per_replica > 1:
            _check_devices(name, pool)
        if name == INGRESS:
            raise Misconfigured(f"A pool cannot be called {INGRESS}.")


def _check_devices(name: str, pool: PoolConfig) -> None:
    """Of one whose replicas have several."""
    undivided = sorted(ON_ONE_DEVICE.intersection(pool.families))
    if undivided:
        raise Misconfigured(
            f"Pool {name} has devices_per_replica: {pool.devices_per_replica}, and hosts "
            f"{', '.join(undivided)}, whose models several devices cannot compute together. "
            "Host it in a pool of its own, with one."
        )
    if pool.num_gpus not in (0, 1) or not pool.num_cpus + pool.num_gpus:
        raise Misconfigured(
            f"Pool {name} has several devices_per_replica: num_gpus is 1, or 0 with num_cpus more "
            "than 0. They are what each of the devices gets."
        )


def _replica_config(config: Config, pool: PoolConfig) -> ReplicaConfig:
    return ReplicaConfig(
        slots=pool.most_slots,
        devices=pool.devices_per_replica,
        threads=pool.threads,
        weights_bytes=pool.weights_bytes,
        warm_up=pool.warm_up,
        graceful_shutdown_timeout_s=pool.graceful_shutdown_timeout_s,
        snapshot_interval_s=pool.snapshot_interval_s,
        stuck_after_s=pool.stuck_after_s,
        # Longer than the ingress waits for a frame, which ends a session while there is an ingress.
        session_silence_s=config.realtime_idle_s + 15,
        allow_private_urls=config.allow_private_urls,
        adapter_bytes=pool.adapter_bytes,
        adapters_dir=config.adapters_dir or config.data_dir / "adapters",
        adapters_max_bytes=config.adapters_max_bytes,
        max_adapter_bytes=config.max_adapter_bytes,
        weights=config.weights_store(),
        log_level=config.log_level,
        log_file=config.log_file,
    )


def _pool(config: Config, name: str, pool: PoolConfig) -> Deployment:
    secrets = (*SECRET_NAMES, *(AWS_SECRET_NAMES if config.s3_bucket else ()))
    environment = dict.fromkeys(secrets, "")  # a replica holds no secret
    environment["HF_HUB_DISABLE_TELEMETRY"] = "1"
    # So that whatever asks the hub's library itself looks into the same store, or calls nobody.
    if config.weights_dir is not None:
        environment["HF_HUB_CACHE"] = str(config.weights_dir)
    if config.offline:
        environment["HF_HUB_OFFLINE"] = "1"
    if pool.threads:
        environment["OMP_NUM_THREADS"] = str(pool.threads)
    if pool.devices_per_replica > 1:  # on one node, so nobody else is to reach them
        environment |= dict.fromkeys(("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"), LOOPBACK)
    scaling: dict[str, Any] = {"num_replicas": pool.min_replicas}
    if pool.max_replicas > pool.min_replicas:
        scaling = {"autoscaling_config": _autoscaling(config, name, pool)}
    deployment: Any = serve.deployment  # its overloads do not know an async constructor
    return deployment(
        Replica,
        name=name,
        ray_actor_options=_place(pool) | {"runtime_env": {"env_vars": environment}},
        **_group(pool),
        max_ongoing_requests=100,
        graceful_shutdown_timeout_s=pool.graceful_shutdown_timeout_s,
        graceful_shutdown_wait_loop_s=0.1,
        health_check_period_s=5,
        request_router_config={"request_router_class": SEAT_ROUTER},
        **scaling,
    )


def _place(pool: PoolConfig) -> dict[str, Any]:
    """What a node must have for a replica."""
    place: dict[str, Any] = {"num_cpus": pool.num_cpus, "num_gpus": pool.num_gpus}
    if pool.accelerator is not None:
        place["accelerator_type"] = pool.accelerator
    if pool.resources:
        place["resources"] = pool.resources
    return place


def _group(pool: PoolConfig) -> dict[str, Any]:
    """A bundle for each of several devices, all on one node; the replica is in the first."""
    if pool.devices_per_replica == 1:
        return {}
    device = {"CPU": pool.num_cpus, "GPU": pool.num_gpus}
    first = device | pool.resources
    if pool.accelerator is not None:
        first[f"accelerator_type:{pool.accelerator}"] = 0.001  # what Ray asks for in its place
    bundles = [first, *[device] * (pool.devices_per_replica - 1)]
    return {
        "placement_group_bundles": [
            {name: amount for name, amount in bundle.items() if amount} for bundle in bundles
        ],
        "placement_group_strategy": "STRICT_PACK",
    }


def _autoscaling(config: Config, name: str, pool: PoolConfig) -> AutoscalingConfig:
    policy = AutoscalingPolicy(
        policy_function=f"{PoolPolicy.__module__}:{PoolPolicy.__name__}",
        policy_kwargs={
            "scope": str(config.data_dir),
            "pool": name,
            "slots": pool.most_slots,
            "least": pool.min_replicas,
            "most": pool.max_replicas,
            "spare": pool.spare_replicas,
            "keep_alive_s": pool.keep_alive_s,
        },
    )
    return AutoscalingConfig(
        min_replicas=pool.min_replicas,
        max_replicas=pool.max_replicas,
        # The policy has its own patience; Serve's would come on top.
        upscale_delay_s=0,
        downscale_delay_s=0,
        downscale_to_zero_delay_s=0,
        policy=policy,
    )


def _ingress(config: Config) -> Deployment:
    # On the head node: there are the embedded database and the directory of artifacts.
    options: dict[str, Any] = {"num_cpus": 0.1, "resources": {HEAD_NODE: 0.001}}
    deployment: Any = serve.deployment
    return deployment(
        serve.ingress()(Ingress),
        name=INGRESS,
        num_replicas=config.ingress_replicas,
        ray_actor_options=options,
        max_ongoing_requests=10_000,  # asks and waiting clients; Serve's default of 5 would be full
        graceful_shutdown_timeout_s=30,
        graceful_shutdown_wait_loop_s=0.1,
        health_check_period_s=5,
    )
