"""The other devices of a replica: an actor on each, in the replica's own placement group.

They are the replica's children and end with it. When one of them ends, so does the replica, as if
it had crashed: nothing can be computed any more, and a collective that waits for the dead one
cannot be called off. Serve makes another, and the queue gives it what was running.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from itertools import count
from pathlib import Path
from tempfile import mkdtemp
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import RayTaskError
from ray.util import get_current_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from deployments import loading
from deployments.engine.families.known import KNOWN
from deployments.family import declarations_of, load_families
from deployments.replica_config import ReplicaConfig
from serve_app.domain.endpoint import Endpoint, Recipe
from serve_app.domain.errors import Misconfigured
from serve_app.telemetry import logs
from weights.store import Store

if TYPE_CHECKING:  # they import torch
    from deployments.engine.follower import Follower
    from deployments.engine.spread import Spread

log = logging.getLogger(__name__)


def end_process() -> None:
    """At once."""
    os._exit(1)


class FollowerActor:
    """One device. ``follow`` and ``load`` run at the same time, on threads of their own."""

    def __init__(self, config: ReplicaConfig, family_paths: Mapping[str, str], device: str) -> None:
        self._config = config
        self._families = family_paths
        self._device = device
        self._follower: Follower | None = None

    def join(self, rank: int, rendezvous: Path) -> None:
        """Returns when all devices have."""
        from deployments.engine.device_group import DeviceGroup  # noqa: PLC0415
        from deployments.engine.follower import Follower  # noqa: PLC0415

        logs.configure(self._config.log_level, logs.stream(self._config.log_file))
        group = DeviceGroup(rank, self._config.devices, rendezvous, self._device)
        group.join()
        self._follower = Follower(
            group, self._config.threads, declarations_of(load_families(self._families))
        )

    def follow(self) -> None:
        """Until the replica ends."""
        self._joined.follow()

    def load(self, number: int, endpoint: Endpoint, recipe: Recipe | None) -> None:
        """As the replica loads it; what is no denoiser is dropped again."""
        family = load_families({endpoint.family: self._families[endpoint.family]})[endpoint.family]
        store = Store(self._config.weights)
        self._joined.add(number, loading.load(store, family, endpoint, self._device), recipe)

    @property
    def _joined(self) -> Follower:
        if self._follower is None:
            raise Misconfigured("The follower has not joined its group.")
        return self._follower


class Followers:
    """For the replica, whose process is rank 0. ``start`` and ``spread`` are slow: on a thread."""

    def __init__(
        self,
        config: ReplicaConfig,
        family_paths: Mapping[str, str],
        device: str,
        on_lost: Callable[[], None] = end_process,
    ) -> None:
        self._config = config
        self._families = family_paths
        self._device = device
        self._on_lost = on_lost
        self._actors: Sequence[Any] = ()
        self._ends: Sequence[Future[Any]] = ()
        self._numbers = count(1)
        self._made: Spread | None = None
        self._declarations = KNOWN
        self._closed = False

    def start(self) -> None:
        """Returns when all devices have come together. ``Misconfigured`` where the replica has no
        placement group of so many."""
        from deployments.engine.device_group import DeviceGroup  # noqa: PLC0415
        from deployments.engine.spread import Spread  # noqa: PLC0415

        rendezvous = Path(mkdtemp(prefix="darkroom-group-")) / "rendezvous"
        self._actors = [self._actor(rank) for rank in range(1, self._config.devices)]
        joined = [
            actor.join.remote(rank, rendezvous) for rank, actor in enumerate(self._actors, start=1)
        ]
        group = DeviceGroup(0, self._config.devices, rendezvous, self._device)
        group.join()
        ray.get(joined)
        self._declarations = declarations_of(load_families(self._families))
        self._made = Spread(group, self._follow, self._lost, self._declarations)
        self._ends = [actor.follow.remote().future() for actor in self._actors]
        for end in self._ends:
            end.add_done_callback(lambda _: self._lost())

    def spread(self, pipeline: Any, endpoint: Endpoint, recipe: Recipe | None) -> None:
        """From now on all devices compute its denoisers, which they load for that; they drop them
        when it is collected. ``WeightsUnavailable`` where it cannot be spread."""
        from deployments.engine.spread import spreadable  # noqa: PLC0415

        if self._made is None:
            raise Misconfigured("The followers were not started.")
        spreadable(pipeline, recipe, self._declarations)  # before any of them loads it
        number = next(self._numbers)
        try:
            ray.get([actor.load.remote(number, endpoint, recipe) for actor in self._actors])
        except RayTaskError as error:
            raise error.cause from error
        self._made.add(number, pipeline, recipe)

    def close(self) -> None:
        """After the engine."""
        self._closed = True
        for actor in self._actors:
            ray.kill(actor)

    def _follow(self) -> bool:
        return not any(end.done() for end in self._ends)

    def _lost(self) -> None:
        if not self._closed:
            log.critical("One of the replica's devices has ended or failed alone; it ends as well.")
            self._on_lost()

    def _actor(self, rank: int) -> Any:
        placed = get_current_placement_group()
        if placed is None or placed.bundle_count < self._config.devices:
            raise Misconfigured(
                f"A replica with {self._config.devices} devices has no placement group of so many."
            )
        bundle = placed.bundle_specs[rank]
        return (
            ray.remote(FollowerActor)
            .options(
                num_cpus=bundle.get("CPU", 0),
                num_gpus=bundle.get("GPU", 0),
                max_concurrency=2,  # it loads while it follows
                scheduling_strategy=PlacementGroupSchedulingStrategy(
                    placed, placement_group_bundle_index=rank
                ),
            )
            .remote(self._config, self._families, self._device)
        )
