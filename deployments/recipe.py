"""How a replica holds an endpoint's weights: by which recipe, and under which name."""

from __future__ import annotations

from dataclasses import replace

from deployments.amendments import amendments_name
from serve_app.domain.endpoint import Endpoint, Recipe
from serve_app.domain.errors import WeightsUnavailable

COMPUTED_IN_ANOTHER = "float8"
"""The precision for storing alone: what is computed in stays the ``dtype`` of the options."""


def recipe_on(endpoint: Endpoint, device_bytes: int) -> Recipe | None:
    """The recipe for a GPU with ``device_bytes``; None without recipes, or on a CPU (0 bytes).

    ``WeightsUnavailable`` when the GPU is too small for all.
    """
    if not endpoint.recipes or not device_bytes:
        return None
    recipe = endpoint.recipe_for(device_bytes)
    if recipe is None:
        raise WeightsUnavailable(
            f"{endpoint.id} takes a GPU with at least {endpoint.recipes[0].memory_gb:g} GB, and "
            f"this replica's has {device_bytes / 1e9:.1f} GB. Put the pool on a larger class of "
            "GPU (`accelerator`), or give the endpoint a recipe for less memory in the catalogue "
            "(DARKROOM_MODELS)."
        )
    return recipe


def as_held(endpoint: Endpoint, recipe: Recipe | None) -> Endpoint:
    """The endpoint with the ``dtype`` that ``recipe`` has its weights loaded in."""
    if recipe is None or recipe.precision == COMPUTED_IN_ANOTHER:
        return endpoint
    return replace(endpoint, options={**endpoint.options, "dtype": recipe.precision})


def family_in(name: str) -> str:
    """Of a ``weights_name``."""
    return name.partition(":")[0]


def weights_name(endpoint: Endpoint, recipe: Recipe | None) -> str:
    """Endpoints with the same name here share one loaded pipeline."""
    weights, held = endpoint.weights, as_held(endpoint, recipe)
    parts = [endpoint.family, weights.source + (f"@{weights.revision}" if weights.revision else "")]
    if weights.variant:
        parts.append(weights.variant)
    if recipe is not None:
        parts += [recipe.precision, recipe.offload, "+".join(recipe.hot)]
        parts += ["compiled"] if recipe.compile else []
    return ":".join(parts) + amendments_name(held.options)
