"""What all attempts of a replica share."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from deployments import loading
from deployments.adapter_fetching import AdapterFetcher
from deployments.engine.threads import Threads
from deployments.family import Family, WarmsUp
from deployments.fetching import Fetcher
from deployments.followers import Followers
from deployments.media_file import TakesFiles
from deployments.recipe import as_held, recipe_on, weights_name
from serve_app.domain.endpoint import Endpoint, Recipe
from serve_app.domain.loading import Loading
from serve_app.domain.ports import Clock
from serve_app.domain.progress import OnDownload
from serve_app.domain.store_config import StoreConfig
from weights.store import Store

if TYPE_CHECKING:  # they import torch
    from deployments.engine.engine import Engine
    from deployments.engine.generation import OnProgress
    from deployments.engine.loan import Loan, OnFound
    from deployments.engine.residency import Residency

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Workshop:
    """Made once for each replica."""

    engine: Engine
    residency: Residency
    uploader: TakesFiles
    fetcher: Fetcher
    snapshot_fetcher: Fetcher
    adapters: AdapterFetcher  # of those that inputs name
    encoders: Threads  # for ``Family.deliver`` of pictures, and for reading them
    writers: Threads  # for that of clips and sounds
    clock: Clock
    store: Store = field(default_factory=lambda: Store(StoreConfig()))  # of weights
    warms_up: bool = False  # families that can, make a short generation after loading
    followers: Followers | None = None  # the other devices of the replica
    served: dict[str, str] = field(default_factory=dict)  # endpoint id → name of its weights

    def borrow(
        self, family: Family, endpoint: Endpoint, on_progress: OnProgress | None = None
    ) -> Loan:
        """The endpoint's weights, held by the recipe for this device; ``on_progress`` is told the
        stages of their way there. ``WeightsUnavailable`` where no recipe fits: nothing is loaded
        then."""
        from deployments.engine.loan import Fetch, LoadPlan  # noqa: PLC0415

        recipe = recipe_on(endpoint, self.engine.device_bytes())
        held = as_held(endpoint, recipe)
        name = self.served[endpoint.id] = weights_name(endpoint, recipe)
        compiles = recipe is not None and recipe.compile
        warm_up = None
        if isinstance(family, WarmsUp) and (self.warms_up or compiles):
            warm_up = partial(_short_call, family, held)
        load = partial(self._load, family, held, recipe)
        if recipe is not None and compiles and warm_up is None:
            recipe = replace(recipe, compile=False)  # it would be at somebody's first generation
        fetch = Fetch(
            partial(loading.is_here, self.store, held), partial(loading.fetch, self.store, held)
        )
        plan = LoadPlan(load, recipe, warm_up, fetch)
        return self.residency.borrow(name, plan, on_progress)

    def _load(
        self,
        family: Family,
        held: Endpoint,
        recipe: Recipe | None,
        on_download: OnDownload,
        on_found: OnFound,
    ) -> Any:
        if recipe is not None and recipe.compile and not isinstance(family, WarmsUp):
            log.warning("%s is not compiled: the family %s has no warm_up.", held.id, held.family)
        pipeline = loading.load(self.store, family, held, self.engine.device, on_download, on_found)
        if self.followers is not None:
            self.followers.spread(pipeline, held, recipe)
        return pipeline

    @property
    def loading(self) -> tuple[Loading, ...]:
        """What is being loaded, and how far it is."""
        served: dict[str, list[str]] = {}
        for id_, name in self.served.copy().items():
            served.setdefault(name, []).append(id_)
        return tuple(
            Loading(tuple(served.get(name, [name])), each.stage, each.step, each.steps)
            for name, each in self.residency.loading().items()
        )

    @property
    def hot(self) -> tuple[str, ...]:
        """Ids of the endpoints whose weights are loaded."""
        return tuple(id_ for id_, name in self.served.items() if self.residency.find(name))


def _short_call(family: WarmsUp, endpoint: Endpoint, pipeline: Any) -> Mapping[str, Any]:
    call = family.warm_up(endpoint, pipeline)
    return call.arguments if call.view is None else {**call.arguments, "view": call.view}
