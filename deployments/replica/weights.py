"""Weights of an endpoint: the recipe for a device, the name of the loaded weights, and loading."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from deployments.families.base import Family
from deployments.families.image_io import own_dtype
from deployments.families.pipeline_options import options_name
from serve_app.domain.endpoint import Endpoint, Recipe, Weights
from serve_app.domain.errors import WeightsUnavailable
from weights.selection import select
from weights.store import Store, lora_of, repositories_of

STORAGE_ONLY = "float8"
"""Precision for storage only: the ``dtype`` of the options is still used to compute."""


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
    """Endpoint with the ``dtype`` in which ``recipe`` loads its weights."""
    if recipe is None or recipe.precision == STORAGE_ONLY:
        return endpoint
    return replace(endpoint, options={**endpoint.options, "dtype": recipe.precision})


def family_of_weights_name(name: str) -> str:
    """Family part of a ``weights_name``."""
    return name.partition(":")[0]


def weights_name(endpoint: Endpoint, recipe: Recipe | None) -> str:
    """Name of the loaded weights. Endpoints with the same name share one loaded pipeline."""
    weights, held = endpoint.weights, with_recipe_dtype(endpoint, recipe)
    parts = [endpoint.family, weights.source + (f"@{weights.revision}" if weights.revision else "")]
    if weights.variant:
        parts.append(weights.variant)
    if recipe is not None:
        parts += [recipe.precision, recipe.offload, "+".join(recipe.hot)]
        parts += ["compiled"] if recipe.compile else []
    return ":".join(parts) + options_name(held.options)


# Loading.


def fetch(store: Store, endpoint: Endpoint, on_download: Callable[[int, int], None]) -> None:
    """Download the weights. If they are evicted before they are loaded, ``load`` downloads them
    again. Raises the errors of ``load``. Slow; needs almost no memory."""
    for each in repositories_of(endpoint):
        with store.open(each, on_download):
            pass


def is_here(store: Store, endpoint: Endpoint) -> bool:
    """True if ``fetch`` has nothing to do. Reads the disk."""
    return all(map(store.is_here, repositories_of(endpoint)))


def load(
    store: Store,
    family: Family,
    endpoint: Endpoint,
    device: str,
    on_download: Callable[[int, int], None] | None = None,
    on_found: Callable[[int], None] | None = None,
) -> Any:
    """Load a pipeline with ``Family.load``. Hub weights are downloaded to a directory first and not
    evicted during the load. ``on_download`` receives the bytes done and the total, on another
    thread; ``on_found`` the memory in bytes that the weights will take, before they are read.

    Raises ``WeightsUnavailable`` with a message for the user. Slow: call it on the loader's thread.
    """
    with ExitStack() as opened:
        folders = {
            each: opened.enter_context(store.open(each, on_download))
            for each in repositories_of(endpoint)
        }
        found = _with_folders(endpoint, folders)
        if on_found is not None and Path(found.weights.source).is_dir():
            on_found(_bytes(found, device))
        return family.load(found, device)


def _bytes(endpoint: Endpoint, device: str) -> int:
    from deployments.engine.loading.loader import weights_bytes  # noqa: PLC0415

    weights, dtype = endpoint.weights, own_dtype(endpoint, device, "bfloat16")
    return weights_bytes(Path(weights.source), weights.variant, dtype, select)


def _with_folders(endpoint: Endpoint, folders: Mapping[Weights, Path]) -> Endpoint:
    """Endpoint with directories in place of repositories."""
    weights, options = endpoint.weights, dict(endpoint.options)
    if weights in folders:
        weights = replace(weights, source=str(folders[weights]), revision=None)
    if (lora := lora_of(endpoint)) is not None:
        lora_options = {k: v for k, v in options["adapter"].items() if k not in ("hub", "revision")}
        options["adapter"] = {**lora_options, "directory": str(folders[lora])}
    return replace(endpoint, weights=weights, options=options)
