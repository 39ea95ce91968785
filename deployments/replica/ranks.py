"""Worker ranks of a replica: an actor on each other device, in the replica's placement group.

The actors are children of the replica and end with it. When one of them ends, the replica ends too,
as in a crash: nothing can be computed any more, and a collective that waits for the dead actor
cannot be cancelled. Serve starts a new replica, and the queue retries what was running.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from itertools import count
from pathlib import Path
from tempfile import mkdtemp
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import RayTaskError
from ray.util import get_current_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from deployments.engine.accelerator.allocator import use_expandable_segments
from deployments.engine.interception.model_traits import KNOWN
from deployments.families.base import as_warming_up, load_families, model_rules_of
from deployments.families.warm_up import short_call
from deployments.replica import weights
from deployments.replica.config import ReplicaConfig
from serve_app.domain.endpoint import Endpoint, Recipe
from serve_app.domain.errors import Misconfigured
from serve_app.telemetry import logs
from weights.store import Store

if TYPE_CHECKING:  # they import torch
    from deployments.engine.parallel.parallel_call import ParallelModels
    from deployments.engine.parallel.worker import ParallelWorker

log = logging.getLogger(__name__)


def end_process() -> None:
    """End this process immediately, without cleanup."""
    os._exit(1)


class RankActor:
    """Worker on one device. ``follow`` and ``load`` run concurrently, on separate threads."""

    def __init__(self, config: ReplicaConfig, family_paths: Mapping[str, str], device: str) -> None:
        self._config = config
        self._families = family_paths
        self._device = device
        self._follower: ParallelWorker | None = None

    def join(self, rank: int, rendezvous: Path) -> None:
        """Join the group. Returns when all devices have joined."""
        use_expandable_segments()
        from deployments.engine.parallel.group import ParallelGroup  # noqa: PLC0415
        from deployments.engine.parallel.worker import ParallelWorker  # noqa: PLC0415

        config = self._config
        logs.configure(config.log_level, logs.stream(config.log_file), config.log_format)
        group = ParallelGroup(rank, self._config.devices, rendezvous, self._device)
        group.join()
        self._follower = ParallelWorker(
            group, self._config.threads, model_rules_of(load_families(self._families))
        )

    def follow(self) -> None:
        """Compute what the replica sends. Returns when the replica ends."""
        self._active_follower.follow()

    def load(self, number: int, endpoint: Endpoint, recipe: Recipe | None) -> None:
        """Load an endpoint's weights as the replica does, and keep only the denoisers."""
        family = load_families({endpoint.family: self._families[endpoint.family]})[endpoint.family]
        store = Store(self._config.weights)
        pipeline = weights.load(store, family, endpoint, self._device)
        warming = as_warming_up(family)
        rehearsal = None
        if recipe is not None and recipe.compile and warming is not None:
            rehearsal = partial(short_call, warming, endpoint, pipeline)
        self._active_follower.add(number, pipeline, recipe, rehearsal)

    @property
    def _active_follower(self) -> ParallelWorker:
        if self._follower is None:
            raise Misconfigured("The follower has not joined its group.")
        return self._follower


class RankGroup:
    """Worker actors of a replica, whose own process is rank 0. ``start`` and ``spread`` are slow:
    call them on a thread."""

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
        self._made: ParallelModels | None = None
        self._declarations = KNOWN
        self._closed = False

    def start(self) -> None:
        """Start the workers. Returns when all devices have joined. ``Misconfigured`` if the
        replica's placement group is too small."""
        from deployments.engine.parallel.group import ParallelGroup  # noqa: PLC0415
        from deployments.engine.parallel.parallel_call import ParallelModels  # noqa: PLC0415

        rendezvous = Path(mkdtemp(prefix="darkroom-group-")) / "rendezvous"
        self._actors = [self._actor(rank) for rank in range(1, self._config.devices)]
        joined = [
            actor.join.remote(rank, rendezvous) for rank, actor in enumerate(self._actors, start=1)
        ]
        group = ParallelGroup(0, self._config.devices, rendezvous, self._device)
        group.join()
        ray.get(joined)
        self._declarations = model_rules_of(load_families(self._families))
        self._made = ParallelModels(group, self._follow, self._end_replica, self._declarations)
        self._ends = [actor.follow.remote().future() for actor in self._actors]
        for end in self._ends:
            end.add_done_callback(lambda _: self._end_replica())

    def spread(self, pipeline: Any, endpoint: Endpoint, recipe: Recipe | None) -> None:
        """Compute the pipeline's denoisers on all devices from now on. The workers load them, and
        drop them when the pipeline is collected. ``WeightsUnavailable`` if that is impossible."""
        from deployments.engine.parallel.parallel_call import spreadable  # noqa: PLC0415

        models = self._parallel
        spreadable(pipeline, recipe)  # check before any worker loads it
        number = next(self._numbers)
        try:
            ray.get([actor.load.remote(number, endpoint, recipe) for actor in self._actors])
        except RayTaskError as error:
            raise error.cause from error
        models.add(number, pipeline, recipe)

    @property
    def ways(self) -> Counter[str]:
        """Denoiser calls by how the devices divided them."""
        return self._parallel.ways

    @property
    def _parallel(self) -> ParallelModels:
        if self._made is None:
            raise Misconfigured("The followers were not started.")
        return self._made

    def close(self) -> None:
        """Kill the workers. Call after the engine has closed."""
        self._closed = True
        for actor in self._actors:
            ray.kill(actor)

    def _follow(self) -> bool:
        return not any(end.done() for end in self._ends)

    def _end_replica(self) -> None:
        if not self._closed:
            log.critical("A device of this replica ended or failed; ending the replica as well.")
            self._on_lost()

    def _actor(self, rank: int) -> Any:
        placed = get_current_placement_group()
        if placed is None or placed.bundle_count < self._config.devices:
            raise Misconfigured(
                f"A replica with {self._config.devices} devices needs a placement group with as "
                "many bundles, and has none. Check how the pool is deployed."
            )
        bundle = placed.bundle_specs[rank]
        return (
            ray.remote(RankActor)
            .options(
                num_cpus=bundle.get("CPU", 0),
                num_gpus=bundle.get("GPU", 0),
                max_concurrency=2,  # ``load`` runs during ``follow``
                scheduling_strategy=PlacementGroupSchedulingStrategy(
                    placed, placement_group_bundle_index=rank
                ),
            )
            .remote(self._config, self._families, self._device)
        )
