"""Resources that all attempts of a replica share, and the recipe by which one loads weights."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from deployments.engine.threads import Threads
from deployments.families.base import Family, as_warming_up
from deployments.families.options import options_name
from deployments.families.warm_up import short_call
from deployments.replica import weights
from deployments.replica.ranks import RankGroup
from deployments.replica.tuned import TunedRecipes
from deployments.safety.checkers import Checkers
from deployments.transfer.fetcher import Fetcher
from deployments.transfer.lora_fetcher import LoraFetcher
from deployments.transfer.uploader import FileSink, StorageCalls
from serve_app.domain.endpoint import (
    EIGHT_BITS,
    STEP_CACHE,
    Endpoint,
    Recipe,
    RequestedWork,
    StoreConfig,
    declared_levels,
    has_step_caches,
    requested_cache,
)
from serve_app.domain.errors import WeightsUnavailable
from serve_app.domain.ports import Clock, FileSigner, SafetyLog
from serve_app.domain.progress import Loading, OnDownload
from weights.store import Store

if TYPE_CHECKING:  # they import torch
    from deployments.engine.engine import Engine
    from deployments.engine.loading.loads import OnFound, PipelineHandle
    from deployments.engine.loading.residency import Residency
    from deployments.engine.loop.options import OnProgress

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ReplicaResources:
    """Shared resources. Created once per replica."""

    engine: Engine
    residency: Residency
    uploader: FileSink
    fetcher: Fetcher
    snapshot_fetcher: Fetcher
    loras: LoraFetcher  # for the LoRAs that inputs name
    encoders: Threads  # for encoding and decoding images
    writers: Threads  # for encoding videos and audio
    clock: Clock
    storage_calls: StorageCalls = field(default_factory=StorageCalls)  # of uploader and fetchers
    slots: int = 0  # generations that the engine interleaves; 0: as configured
    store: Store = field(default_factory=lambda: Store(StoreConfig()))  # of weights
    warms_up: bool = False  # families with a warm-up make a short generation after loading
    ranks: RankGroup | None = None  # the other devices of the replica
    checkers: Checkers = field(default_factory=lambda: Checkers(Store(StoreConfig())))
    safety_log: SafetyLog | None = None  # None: decisions are only logged
    signer: FileSigner | None = None  # of files; None: nothing can be signed
    tuned: TunedRecipes = field(default_factory=TunedRecipes)  # chosen by `darkroom tune`
    share_caches: bool = False  # among tenants
    weights_by_endpoint: dict[str, str] = field(default_factory=dict)  # id → ``loaded_name``

    def cache_scope(self, tenant: str) -> str:
        """Scope of the caches whose use can be measured: what a tenant asked for makes nothing
        faster for another one, unless the operator shares them."""
        return "" if self.share_caches else tenant

    def acquire(
        self,
        family: Family,
        endpoint: Endpoint,
        on_progress: OnProgress | None = None,
        *,
        spare: bool = False,
    ) -> PipelineHandle:
        """Acquire a handle of the endpoint's pipeline, loaded by the recipe for this device.
        ``on_progress`` receives the stages of loading. ``spare``: no request waits for it, see
        ``Residency.acquire``. ``WeightsUnavailable`` if no recipe fits; then nothing is loaded."""
        from deployments.engine.loading.loads import Fetch, LoadPlan  # noqa: PLC0415

        recipe = recipe_for_device(endpoint, self.engine.device_bytes())
        if (tuned := self.tuned.find(weights_name(endpoint, recipe), endpoint)) is not None:
            endpoint, recipe = tuned.apply_to(endpoint)
        effective = with_recipe_dtype(endpoint, recipe)
        name = self.weights_by_endpoint[endpoint.id] = loaded_name(endpoint, recipe)
        compiles = recipe is not None and recipe.compiles
        warm_up = None
        warming = as_warming_up(family)
        if warming is not None and (self.warms_up or compiles):
            warm_up = partial(short_call, warming, effective)
        load = partial(self._load, family, effective, recipe)
        if recipe is not None and compiles and warm_up is None:
            # It would delay a user's first generation.
            recipe = replace(recipe, compile=False, compile_decoder=False)
        fetch = Fetch(
            partial(weights.is_here, self.store, effective),
            partial(weights.fetch, self.store, effective),
        )
        if recipe is not None and self.ranks is not None:
            recipe = replace(recipe, attention="")  # the other devices compute by torch's own
        plan = LoadPlan(load, recipe, warm_up, fetch)
        return self.residency.acquire(name, plan, on_progress, spare=spare)

    def needs_tiles(self, endpoint: Endpoint, work: RequestedWork | None) -> bool:
        """True if the autoencoder must work in tiles to make ``work`` on this device.

        Raises ``InvalidInput``, with the largest value of the field, if ``work`` is larger than
        what the recipe was computed for.
        """
        recipe = recipe_for_device(endpoint, self.engine.device_bytes())
        if work is None or recipe is None or recipe.largest is None:
            return False
        recipe.largest.check(work, endpoint.id, recipe.memory_gb)
        return recipe.largest.needs_tiles(work)

    def step_cache(self, endpoint: Endpoint, input: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """Step cache for ``input`` on this device, by the acceleration that it asks for.

        None: every step is computed, as always where several devices compute a model together.
        """
        recipe = recipe_for_device(endpoint, self.engine.device_bytes())
        if self.ranks is not None or not has_step_caches(endpoint, recipe):
            return None
        declared = declared_levels(endpoint, recipe)
        name = weights_name(endpoint, recipe)
        return requested_cache(self.tuned.step_caches(name, endpoint, declared), input)

    def _load(
        self,
        family: Family,
        endpoint: Endpoint,
        recipe: Recipe | None,
        on_download: OnDownload,
        on_found: OnFound,
    ) -> Any:
        if recipe is not None and recipe.compiles and as_warming_up(family) is None:
            log.warning(
                "%s is not compiled: the family %s has no warm_up.", endpoint.id, endpoint.family
            )
        pipeline = weights.load(
            self.store, family, endpoint, self.engine.device, on_download, on_found
        )
        if self.ranks is not None:
            self.ranks.spread(pipeline, endpoint, recipe)
        return pipeline

    @property
    def loading(self) -> tuple[Loading, ...]:
        """Progress of what is being loaded."""
        endpoints: dict[str, list[str]] = {}
        for id_, name in self.weights_by_endpoint.copy().items():
            endpoints.setdefault(name, []).append(id_)
        warm = self.residency.restoring
        return tuple(
            Loading(
                tuple(endpoints.get(name, [name])),
                progress.stage,
                progress.step,
                progress.steps,
                warm=name in warm,
            )
            for name, progress in self.residency.loading().items()
        )

    @property
    def loaded_endpoints(self) -> tuple[str, ...]:
        """Ids of endpoints with loaded weights."""
        return tuple(
            id_ for id_, name in self.weights_by_endpoint.items() if self.residency.find(name)
        )

    @property
    def warm_endpoints(self) -> tuple[str, ...]:
        """Ids of endpoints with evicted weights in host memory."""
        warm = self.residency.warm
        return tuple(
            id_
            for id_, name in self.weights_by_endpoint.items()
            if name in warm and self.residency.find(name) is None
        )

    @property
    def device_name(self) -> str:
        """Name of the GPU; empty on a CPU."""
        return self.engine.accelerator.model_name() if self.engine.device_bytes() else ""

    async def aclose(self, within_s: float) -> None:
        """Close all resources. The engine ends its generations within ``within_s``."""
        self.residency.close()
        await asyncio.to_thread(self.engine.close, within_s)
        if self.ranks is not None:
            self.ranks.close()
        for threads in (self.encoders, self.writers):
            threads.shutdown(wait=False, cancel_futures=True)
        await self.uploader.aclose()
        await self.fetcher.aclose()
        await self.snapshot_fetcher.aclose()
        await self.loras.aclose()


# The recipe for a device, and the name of the loaded weights.


def recipe_for_device(endpoint: Endpoint, device_bytes: int) -> Recipe | None:
    """Recipe for a GPU with ``device_bytes``. None without recipes, or on a CPU (0 bytes).

    Raises ``WeightsUnavailable`` if the GPU is too small for every recipe.
    """
    if not endpoint.recipes or not device_bytes:
        return None
    recipe = endpoint.recipe_for(device_bytes)
    if recipe is None:
        raise WeightsUnavailable(
            f"{endpoint.id} needs a GPU with at least {endpoint.recipes[0].memory_gb:g} GB, but "
            f"this replica's has {device_bytes / 1e9:.1f} GB. Put the pool on a larger class of "
            "GPU (`accelerator`), or give the endpoint a recipe for less memory in the catalogue "
            "(DARKROOM_MODELS)."
        )
    return recipe


def with_recipe_dtype(endpoint: Endpoint, recipe: Recipe | None) -> Endpoint:
    """Endpoint with the ``dtype``, ``dtypes`` and step caches of ``recipe``."""
    if recipe is None:
        return endpoint
    options = dict(endpoint.options)
    if recipe.precision not in EIGHT_BITS:
        options["dtype"] = recipe.precision
    if recipe.dtypes:
        options["dtypes"] = {**(options.get("dtypes") or {}), **recipe.dtypes}
    if recipe.step_cache:
        options[STEP_CACHE] = recipe.step_cache
    return replace(endpoint, options=options)


def family_of_weights_name(name: str) -> str:
    """Family part of a ``weights_name``."""
    return name.partition(":")[0]


def loaded_name(endpoint: Endpoint, recipe: Recipe | None) -> str:
    """Name of the loaded weights. Endpoints with the same name share one loaded pipeline."""
    version = endpoint.weights.version
    return weights_name(endpoint, recipe) + (f" version {version}" if version else "")


def weights_name(endpoint: Endpoint, recipe: Recipe | None) -> str:
    """Name of weights in the form that ``recipe`` gives them, whatever the version of their files
    is."""
    weights, effective = endpoint.weights, with_recipe_dtype(endpoint, recipe)
    parts = [endpoint.family, weights.source + (f"@{weights.revision}" if weights.revision else "")]
    if weights.variant:
        parts.append(weights.variant)
    if weights.checkpoint:
        parts += [weights.checkpoint, "+".join(weights.components)]
    if weights.parts or weights.pipeline:
        parts += [weights.pipeline, *(part.identity for part in weights.parts)]
    if recipe is not None:
        parts += [recipe.precision, recipe.offload, "+".join(recipe.hot)]
        parts += ["compiled"] if recipe.compile else []
        parts += ["compiled decoder"] if recipe.compile_decoder else []
        parts += ["graphs"] if recipe.graphs else []
        parts += [recipe.attention] if recipe.attention else []
    return ":".join(parts) + options_name(effective.options)
