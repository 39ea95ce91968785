"""Composition root: builds the Serve applications from the configuration.

An installation has an application for the ingress and one for each pool, so that a change of one
pool restarts that pool alone; ``applications`` divides the settings among them. ``build`` puts
everything into one application, for ``serve run serve_app.app:build``.

Builders are pure: they start no process and touch no file or network, because with a YAML
configuration Serve runs them in another process with another working directory. This is the only
module that binds deployments, and the only module of ``serve_app`` that imports the data plane.
"""

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray import serve
from ray.serve import Application, Deployment
from ray.serve.config import AutoscalingConfig, AutoscalingPolicy

from deployments.executors.deployment import ExecutorDeployment
from deployments.executors.environment import Environments
from deployments.executors.kind import DeployContext
from deployments.executors.registry import EXECUTORS, find_kinds
from deployments.families.registry import FAMILIES
from deployments.replica import tuned
from deployments.replica.config import (
    LoraConfig,
    ReplicaConfig,
    SnapshotConfig,
    TransferConfig,
)
from deployments.replica.deployment import EngineDeployment
from deployments.tuning.session import TuningSession
from serve_app.domain.errors import Misconfigured
from serve_app.domain.executors.deployable import Choices, Deployable
from serve_app.domain.executors.kinds import facts_of
from serve_app.ingress import direct_calls
from serve_app.ingress.deployment import Ingress
from serve_app.ingress.http.origin import HEAD_NODE
from serve_app.ingress.realtime.replicas import SessionRouter
from serve_app.scaling.policy import PoolPolicy
from serve_app.settings import (
    APPLICATION,
    AWS_SECRET_NAMES,
    HUB_SECRET_NAMES,
    OTLP_SECRET_NAMES,
    SECRET_NAMES,
    Config,
    PoolConfig,
    pool_application,
    read_config,
    refuse_unknown,
)
from serve_app.settings.parts import (
    CONFIG_FILE,
    ingress_arguments,
    pool_arguments,
    without_version,
)
from serve_app.storage.s3.location import location_of
from serve_app.telemetry.clock import SystemClock
from weights.mirror import bucket_of

INGRESS = "ingress"
ROOT = "root"
SEAT_ROUTER = f"{SessionRouter.__module__}:{SessionRouter.__name__}"
DIRECT_CALLS = f"{direct_calls.__name__}:{direct_calls.middleware.__name__}"
LOOPBACK = "lo0" if sys.platform == "darwin" else "lo"
APP_SLOTS = 8
HOSTED_SLOTS = 500  # requests that wait for a provider cost little
"""Requests that a replica of the default pool for apps runs at once, of all apps together."""
MOST_REPLICAS = 1000
"""Serve's own bound of each pool. The policy keeps to the pool's, which may change at any time."""


class PoolRoot:
    """Deployment that only makes Serve deploy its child. See ``_root``."""

    def __init__(self, pool: object) -> None:
        del pool


@dataclass(frozen=True, slots=True)
class ServeApplication:
    """One application of an installation, as an entry of a Serve configuration file."""

    name: str
    builder: Callable[[dict[str, Any]], Application]
    route_prefix: str | None
    args: dict[str, Any]
    code: str = ""  # URI of the code that it runs; empty: the installed one

    @property
    def target(self) -> Application:
        return self.builder(dict(self.args))

    @property
    def entry(self) -> dict[str, Any]:
        entry = {
            "name": self.name,
            "import_path": f"{self.builder.__module__}:{self.builder.__name__}",
            "route_prefix": self.route_prefix,
            "args": self.args,
        }
        return entry | {"runtime_env": _code(self.code)} if self.code else entry


def applications(
    settings: Mapping[str, Any], file: Path | None = None
) -> Mapping[str, ServeApplication]:
    """Applications of an installation by name, the ingress first.

    ``settings`` override the environment. ``file``: the configuration file that they come from,
    which the ingress then watches. Raises ``Misconfigured`` with the name of the setting.
    """
    config = checked_config(settings)
    path = None if file is None else str(file.absolute())
    apps = [ServeApplication(APPLICATION, build_ingress, "/", ingress_arguments(settings, path))]
    for name, pool in (config.models.pools or {}).items():
        args = pool_arguments(settings, name, pool, config.models.families)
        apps.append(ServeApplication(pool_application(name), build_pool, None, args, pool.code))
    return {app.name: app for app in apps}


def build_ingress(args: dict[str, Any]) -> Application:
    """Build the application of the ingress. ``args``: see ``ingress_arguments``; a ``version``
    among them is not read."""
    settings = without_version(args)
    file = settings.pop(CONFIG_FILE, None)
    config = checked_config(settings)
    return _ingress(config).bind(config, (), None if file is None else Path(file))


def build_pool(args: dict[str, Any]) -> Application:
    """Build the application of a pool. ``args``: see ``pool_arguments``; a ``version`` among them
    is not read."""
    config = checked_config(without_version(args))
    ((name, pool),) = (config.models.pools or {}).items()
    return _root().bind(_bind_pool(config, name, pool, APPLICATION))


def build(args: dict[str, Any]) -> Application:
    """Build one application with all. ``args`` are settings by their names in ``Config``; they
    override the environment.

    Raises ``Misconfigured`` with the name of the setting.
    """
    config = checked_config(args)
    pools = config.models.pools or {}
    children = [_bind_pool(config, name, pool, None) for name, pool in pools.items()]
    return _ingress(config).bind(config, children)


def checked_config(settings: Mapping[str, Any]) -> Config:
    """Return the checked settings, with the default pool if they configure none.

    ``settings`` override the environment. Raises ``Misconfigured`` with the name of the setting.
    """
    refuse_unknown()
    config = read_config(settings)
    location_of(config)  # reports contradicting settings before anything starts
    if config.weights.weights_mirror:
        bucket_of(config.weights.weights_mirror)
    pools = config.models.pools or _default_pools(config)
    _check_pools(pools, [*_families(config), *EXECUTORS])
    return config.with_pools(pools)


def _bind_pool(
    config: Config, name: str, pool: PoolConfig, ingress_application: str | None
) -> Application:
    replica = _replica_config(config, pool)
    if _runs_apps(pool):
        deployed = _pool(config, name, pool, ExecutorDeployment)
        return deployed.bind(name, replica, INGRESS, ingress_application)
    families = _families(config)
    own = {family: families[family] for family in pool.families}
    deployed = _pool(config, name, pool, EngineDeployment)
    return deployed.bind(name, replica, own, INGRESS, ingress_application)


def _families(config: Config) -> dict[str, str]:
    """Families of the engine that pools may host, by their code."""
    return {**FAMILIES, **config.models.families}


def _runs_apps(pool: PoolConfig) -> bool:
    return bool(EXECUTORS.keys() & set(pool.families))


def tuning_session(config: Config) -> TuningSession:
    """Session that measures variants of recipes on this machine, without Ray and Serve."""
    return TuningSession(
        tuned.TuningFile(config.tuning_file),
        config.server.data_dir / "tuning",
        _families(config),
        config.weights.store(),
        SystemClock().monotonic,
        needs_gpu=config.models.gpus > 0,
    )


def tuning_file(config: Config) -> tuned.TuningFile:
    """File with what ``darkroom tune`` has measured."""
    return tuned.TuningFile(config.tuning_file)


def hosted_families(config: Config) -> frozenset[str]:
    """Families that at least one pool of this configuration hosts."""
    if config.models.pools is None:
        return frozenset((*_families(config), *EXECUTORS))
    return frozenset(family for pool in config.models.pools.values() for family in pool.families)


def _default_pools(config: Config) -> dict[str, PoolConfig]:
    """Pools of an installation that configures none: one with every family, so one process, one
    engine and one memory budget; one for apps, and one for hosted providers, which have no replica
    until they are called."""
    studio = PoolConfig(families=tuple(_families(config)), num_gpus=1 if config.models.gpus else 0)
    providers, local = _split_providers(EXECUTORS)
    apps = PoolConfig(families=local, min_replicas=0, slots=APP_SLOTS)
    hosted = PoolConfig(families=providers, min_replicas=0, slots=HOSTED_SLOTS)
    return {"studio": studio, "apps": apps, "hosted": hosted}


def find_deployable(config: Config, choices: Choices) -> Deployable | None:
    """What the first executor that knows it makes of what ``darkroom deploy`` is asked to serve.
    None: no executor does."""
    context = DeployContext(
        Environments(_apps_dir(config) / "environments"),
        config.models.executors,
        config.weights.store().directory,
    )
    deployables = (kind.deploy(choices, context) for kind in find_kinds())
    return next((deployable for deployable in deployables if deployable is not None), None)


def _apps_dir(config: Config) -> Path:
    return config.server.data_dir / "apps"


def _check_pools(pools: dict[str, PoolConfig], families: Sequence[str]) -> None:
    for name, pool in pools.items():
        unknown = sorted(set(pool.families) - set(families))
        if unknown:
            raise Misconfigured(
                f"Pool {name} hosts unknown families: {', '.join(unknown)}. "
                f"Known families: {', '.join(sorted(families))}."
            )
        if pool.devices_per_replica > 1:
            _check_devices(name, pool)
        if _runs_apps(pool) and not EXECUTORS.keys() >= set(pool.families):
            others = ", ".join(sorted(set(pool.families) - EXECUTORS.keys()))
            raise Misconfigured(
                f"Pool {name} hosts executors ({', '.join(EXECUTORS)}) and {others}. Give the "
                "executors a pool of their own: their replicas have no engine."
            )
        providers, others = _split_providers(pool.families)
        if providers and others:
            raise Misconfigured(
                f"Pool {name} hosts {', '.join(providers)}, whose keys its replicas hold, and "
                f"{', '.join(others)}, which run code of users beside them. Give the hosted "
                "providers a pool of their own."
            )
        if name in (INGRESS, ROOT):
            raise Misconfigured(f"A pool cannot be named {name}. Choose another name.")


def _split_providers(families: Iterable[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Hosted providers among the families, and the others."""
    families = tuple(families)
    hosted = tuple(family for family in families if facts_of(family).is_hosted)
    return hosted, tuple(family for family in families if family not in hosted)


def _check_devices(name: str, pool: PoolConfig) -> None:
    """Check a pool whose replicas have several devices."""
    if pool.num_gpus not in (0, 1) or not pool.num_cpus + pool.num_gpus:
        raise Misconfigured(
            f"Pool {name} has several devices_per_replica, so num_gpus and num_cpus apply to each "
            "device. Set num_gpus to 1, or to 0 with num_cpus above 0."
        )


def _replica_config(config: Config, pool: PoolConfig) -> ReplicaConfig:
    executors = config.models.executors
    return ReplicaConfig(
        slots=pool.max_slots,
        slots_by_memory=pool.slots_by_memory,
        devices=pool.devices_per_replica,
        needs_gpu=pool.num_gpus > 0,
        threads=pool.threads,
        weights_bytes=pool.weights_bytes,
        warm_weights_share=pool.warm_weights_share,
        warm_up=pool.warm_up,
        prefetch=pool.prefetch,
        graceful_shutdown_timeout_s=pool.shutdown_s,
        stuck_after_s=pool.stuck_after_s,
        # Longer than the ingress waits for a frame: while it lives, the ingress ends idle sessions.
        session_silence_s=config.limits.realtime_idle_s + 15,
        snapshots=SnapshotConfig(interval_s=pool.snapshot_interval_s),
        transfers=TransferConfig(
            allow_private_urls=config.limits.allow_private_urls,
            min_bytes_per_s=config.limits.min_download_bytes_per_s,
        ),
        loras=LoraConfig(
            device_bytes=pool.adapter_bytes,
            cache_dir=config.loras.adapters_dir or config.server.data_dir / "adapters",
            cache_max_bytes=config.loras.adapters_max_bytes,
            max_file_bytes=config.loras.max_adapter_bytes,
        ),
        share_caches=config.access.share_caches,
        apps_dir=_apps_dir(config),
        executors={name: executors[name] for name in executors.keys() & {*pool.families}},
        tuning_file=config.tuning_file,
        weights=config.weights.store(),
        log_level=config.telemetry.log_level,
        log_file=config.telemetry.log_file,
        log_format=config.telemetry.log_format,
    )


def _pool(config: Config, name: str, pool: PoolConfig, kind: type[Any]) -> Deployment:
    # Replicas get no secrets.
    environment = dict.fromkeys((*SECRET_NAMES, *OTLP_SECRET_NAMES), "")
    storage = config.storage
    if storage.s3_bucket or storage.storage_locations or not config.weights.weights_mirror:
        environment |= dict.fromkeys(AWS_SECRET_NAMES, "")
    environment["HF_HUB_DISABLE_TELEMETRY"] = "1"
    # Code that uses the hub's library directly shares the same store and the offline setting.
    if config.weights.weights_dir is not None:
        environment["HF_HUB_CACHE"] = str(config.weights.weights_dir)
    if config.weights.offline:
        environment["HF_HUB_OFFLINE"] = "1"
    # Compiled blocks are kept between starts. ``/tmp`` of a container is not.
    environment["TORCHINDUCTOR_CACHE_DIR"] = str(config.server.data_dir / "compiled")
    if pool.threads:
        environment["OMP_NUM_THREADS"] = str(pool.threads)
    if pool.devices_per_replica > 1:  # all on one node, so no other machine needs to reach them
        environment |= dict.fromkeys(("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"), LOOPBACK)
    deployment: Any = serve.deployment  # its overloads do not support an async constructor
    return deployment(
        kind,
        name=name,
        ray_actor_options=_place(pool)
        | {"runtime_env": {"env_vars": environment, **_code(pool.code)}},
        **_group(pool),
        # A session of an app has a call for each direction, which waits.
        max_ongoing_requests=max(100, 3 * pool.max_slots),
        graceful_shutdown_timeout_s=pool.shutdown_s,
        graceful_shutdown_wait_loop_s=0.1,
        health_check_period_s=5,
        request_router_config={"request_router_class": SEAT_ROUTER},
        autoscaling_config=_autoscaling(config, name),
    )


def _code(uri: str) -> dict[str, Any]:
    """Part of Ray's ``runtime_env``, with the code of a pool that has its own."""
    return {"py_modules": [uri]} if uri else {}


def _place(pool: PoolConfig) -> dict[str, Any]:
    """Resources that a node needs for a replica."""
    place: dict[str, Any] = {"num_cpus": pool.num_cpus, "num_gpus": pool.num_gpus}
    if pool.accelerator is not None:
        place["accelerator_type"] = pool.accelerator
    if pool.resources:
        place["resources"] = pool.resources
    return place


def _group(pool: PoolConfig) -> dict[str, Any]:
    """Placement group with one bundle per device, all on one node. The replica uses the first."""
    if pool.devices_per_replica == 1:
        return {}
    device = {"CPU": pool.num_cpus, "GPU": pool.num_gpus}
    first = device | pool.resources
    if pool.accelerator is not None:
        first[f"accelerator_type:{pool.accelerator}"] = 0.001  # as Ray itself requests it
    bundles = [first, *[device] * (pool.devices_per_replica - 1)]
    return {
        "placement_group_bundles": [
            {name: amount for name, amount in bundle.items() if amount} for bundle in bundles
        ],
        "placement_group_strategy": "STRICT_PACK",
    }


def _autoscaling(config: Config, name: str) -> AutoscalingConfig:
    """Scaling by ``PoolPolicy``. Constant: the policy reads the pool's bounds while it runs."""
    policy = AutoscalingPolicy(
        policy_function=f"{PoolPolicy.__module__}:{PoolPolicy.__name__}",
        policy_kwargs={"scope": str(config.server.data_dir), "pool": name},
    )
    return AutoscalingConfig(
        min_replicas=0,
        max_replicas=MOST_REPLICAS,
        # The policy has its own delays; Serve's would be added to them.
        upscale_delay_s=0,
        downscale_delay_s=0,
        downscale_to_zero_delay_s=0,
        policy=policy,
    )


def _root() -> Deployment:
    """Root of a pool's application, without a process: it has no replica because it has no calls.

    With HAProxy, Serve refuses the pool's request router at the root of an application.
    """
    deployment: Any = serve.deployment
    nothing = {"min_replicas": 0, "max_replicas": 1}
    return deployment(PoolRoot, name=ROOT, autoscaling_config=nothing)


def _ingress(config: Config) -> Deployment:
    options: dict[str, Any] = {
        "num_cpus": 0.1,
        "runtime_env": {
            "env_vars": {direct_calls.SETTING: DIRECT_CALLS, **dict.fromkeys(HUB_SECRET_NAMES, "")}
        },
        **_nodes_of_ingress(config.server.ingress_nodes),
    }
    deployment: Any = serve.deployment
    return deployment(
        serve.ingress()(Ingress),
        name=INGRESS,
        num_replicas=config.server.ingress_replicas,
        ray_actor_options=options,
        max_ongoing_requests=10_000,  # long polls and waiting clients exceed Serve's default of 5
        graceful_shutdown_timeout_s=30,
        graceful_shutdown_wait_loop_s=0.1,
        health_check_period_s=5,
    )


def _nodes_of_ingress(nodes: str) -> dict[str, Any]:
    """Ray's options that place the ingress on ``nodes``, as the setting names them."""
    if nodes == "any":
        return {}
    if nodes == "head":  # which has the embedded database and the artifact directory
        return {"resources": {HEAD_NODE: 0.001}}
    label, _, value = nodes.partition("=")
    return {"label_selector": {label: value}}
