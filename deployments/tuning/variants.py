"""Variants of a recipe that ``darkroom tune`` measures.

``SWITCHES`` is the table. To measure another switch, add a row that names the field of ``Recipe``
or the option that it sets, and the recipes for which it makes sense.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from deployments.replica.tuned import PLAIN, WORTHWHILE, Measurement, Tuning
from serve_app.domain.endpoint import Endpoint, Recipe, declared_levels, has_step_caches

CATALOGUE = "recipe"
"""Name of the catalogue's recipe where it is not the plain one."""

COMBINED = "combined"
"""Name of the variant with all switches that help on their own."""


@dataclass(frozen=True, slots=True)
class RecipeVariant:
    """Variant of one model, ready to be measured."""

    name: str
    recipe: Recipe
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])  # None: removed
    exact: bool = False  # computes what plain computes, so it can be the reference
    step_cache: Mapping[str, Any] = field(default_factory=dict[str, Any])  # empty: none

    def was_measured_as(self, kept: Measurement) -> bool:
        """Return whether ``kept`` is a measurement of this variant."""
        return (self.recipe, dict(self.options), dict(self.step_cache)) == (
            kept.recipe,
            dict(kept.options),
            dict(kept.step_cache),
        )


@dataclass(frozen=True, slots=True)
class Subject:
    """Facts by which a row of the table is chosen."""

    endpoint: Endpoint
    recipe: Recipe | None  # of the catalogue, for this device; None without recipes
    discrete: bool  # the device is a GPU


@dataclass(frozen=True, slots=True)
class Switch:
    """Row of the table: one change of the plain recipe."""

    name: str
    recipe: Mapping[str, Any] = field(default_factory=dict[str, Any])
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    exact: bool = False
    applies: Callable[[Subject], bool] = lambda _: True


def _offloads(subject: Subject) -> bool:
    return subject.recipe is not None and subject.recipe.offload != "none"


def _is_discrete(subject: Subject) -> bool:
    return subject.discrete


def _makes_images_on_a_gpu(subject: Subject) -> bool:
    """Videos have other autoencoders. On a CPU, compiling takes longer than it could gain."""
    return subject.discrete and subject.endpoint.category.endswith("to-image")


def _tiles(subject: Subject) -> bool:
    return bool(subject.endpoint.options.get("tiling"))


SWITCHES: Sequence[Switch] = (
    # Without it, there is nothing to copy. It may not fit, and is then marked.
    Switch("on the device", {"offload": "none", "hot": ()}, exact=True, applies=_offloads),
    # Slower, and the reference where plain does not fit.
    Switch("streamed", {"offload": "blocks"}, exact=True, applies=_offloads),
    Switch("compiled", {"compile": True}),
    Switch("compiled decoder", {"compile_decoder": True}, applies=_makes_images_on_a_gpu),
    # Where launching kernels takes longer than computing: SDXL, and small images.
    Switch("graphs", {"graphs": True}, applies=_is_discrete),
    # Storage only: half the memory, not faster. Its worth is that other offloading is not needed.
    Switch("float8", {"precision": "float8"}),
    Switch(
        "float8 on the device",
        {"precision": "float8", "offload": "none", "hot": ()},
        applies=_offloads,
    ),
    Switch("int8 weights", {"precision": "int8-weights"}),
    # Uncompiled, rounding the inputs takes several passes over them.
    Switch(
        "products in int8", {"precision": "int8-dynamic", "compile": True}, applies=_is_discrete
    ),
    Switch(
        "products in float8",
        {"precision": "float8-dynamic", "compile": True},
        applies=_is_discrete,
    ),
    Switch("float16", {"precision": "float16"}, applies=_is_discrete),
    Switch("attention by cuDNN", {"attention": "_native_cudnn"}, applies=_is_discrete),
    Switch("attention by flash", {"attention": "_native_flash"}, applies=_is_discrete),
    Switch("untiled", options={"tiling": None}, applies=_tiles),
)

STEP_CACHES: Sequence[Mapping[str, Any]] = tuple(
    {"name": "FirstBlockCache", "threshold": threshold} for threshold in (0.05, 0.08, 0.12, 0.2)
)
"""Step caches that are measured beside those that an endpoint declares. Its authors use thresholds
from 0.05 to 0.12; where steps are alike, 0.2 may still be within the bound."""

BENCHMARKED: Mapping[str, Callable[[Recipe], bool]] = {
    # Products in 8 bits are compiled too, without which they do not pay. Their verdicts say so.
    "compile": lambda recipe: recipe.compile and not recipe.precision.endswith("-dynamic"),
    "compile_decoder": lambda recipe: recipe.compile_decoder,
    "graphs": lambda recipe: recipe.graphs,
    "float8-dynamic": lambda recipe: recipe.precision == "float8-dynamic",
    # Whether a model passes masks is not known.
    "attention": lambda recipe: bool(recipe.attention),
    "attention with masks": lambda recipe: bool(recipe.attention),
}
"""Switches on which ``benchmarks.gpu`` has verdicts, and the recipes that have them."""

PLACEMENT = frozenset({"memory_gb", "offload", "hot", "dtypes", "largest"})
"""Fields of a recipe that are no switches: plain keeps them."""


def plain_of(subject: Subject) -> Recipe:
    """Recipe without switches. The placement is the catalogue's, since other ones may not fit."""
    precision = "bfloat16" if subject.discrete else "float32"
    if subject.recipe is None:
        return Recipe(0, precision)
    kept = {name: getattr(subject.recipe, name) for name in PLACEMENT}
    return Recipe(precision=precision, **kept)


def candidates(subject: Subject) -> list[RecipeVariant]:
    """Variants to measure, plain first. No two load and compute the same."""
    plain = plain_of(subject)
    variants = [RecipeVariant(PLAIN, plain, exact=True)]
    if subject.recipe is not None:
        variants.append(RecipeVariant(CATALOGUE, subject.recipe))
    for switch in SWITCHES:
        if not switch.applies(subject):
            continue
        changed = replace(plain, **switch.recipe)
        variants.append(RecipeVariant(switch.name, changed, switch.options, exact=switch.exact))
    return [*_distinct(variant for variant in variants if is_allowed(variant.recipe))]


def cached_candidates(subject: Subject, base: Measurement | None) -> list[RecipeVariant]:
    """Step caches to measure, each over the variant ``base``; None: to name them.

    None for an endpoint that declares no step cache: no request of its would use one.
    """
    if not has_step_caches(subject.endpoint, subject.recipe):
        return []
    declared = declared_levels(subject.endpoint, subject.recipe)
    named = {f"step cache {level}": dict(cache) for level, cache in declared.items()}
    named |= {
        f"step cache {cache['threshold']}": dict(cache)
        for cache in STEP_CACHES
        if cache not in declared.values()
    }
    recipe = plain_of(subject) if base is None else base.recipe
    options = {} if base is None else base.options
    return [RecipeVariant(name, recipe, options, step_cache=cache) for name, cache in named.items()]


def reason_against(variant: RecipeVariant, off: Mapping[str, str]) -> str:
    """Reason not to measure the variant: all its benchmarked switches are ``off``, which has their
    reasons. Empty if there is none. What is compared with is always measured."""
    if variant.name in (PLAIN, CATALOGUE):
        return ""
    switches = [name for name, has in BENCHMARKED.items() if has(variant.recipe)]
    if not off.keys() >= {*switches}:
        return ""
    return "; ".join(f"{name} is off: {off[name]}" for name in switches)


def default_name(variants: Sequence[RecipeVariant]) -> str:
    """Name of the candidate that is the catalogue's recipe."""
    return CATALOGUE if any(variant.name == CATALOGUE for variant in variants) else PLAIN


def is_allowed(recipe: Recipe) -> bool:
    """Return whether the catalogue would accept the recipe: weights that hooks move make every
    compiled block compile again, and a graph reads them where they were."""
    moved = recipe.precision == "float8" or recipe.offload == "blocks"
    return not (moved and (recipe.compile or recipe.graphs))


def combination(variants: Sequence[RecipeVariant], tuning: Tuning) -> RecipeVariant | None:
    """Variant with all switches that are faster than plain on their own and within the quality
    bound. Where two contradict, the faster one stays. None if fewer than two are left."""
    plain = tuning.find(PLAIN)
    if plain is None or not plain.ok:
        return None
    helpful = sorted(
        (measured.generation_s, candidate.name, candidate)
        for candidate in variants
        if candidate.name not in (PLAIN, CATALOGUE) and (measured := tuning.find(candidate.name))
        if _helps(measured, plain, tuning)
    )
    base = variants[0].recipe
    recipe, options, parts = base, dict[str, Any](), 0
    for _, _, variant in helpful:
        change = _difference(base, variant.recipe)
        if any(getattr(recipe, name) != getattr(base, name) for name in change):
            continue  # a faster one has set it
        changed = replace(recipe, **change)
        if is_allowed(changed):
            recipe, options, parts = changed, {**variant.options, **options}, parts + 1
    combined = RecipeVariant(COMBINED, recipe, options)
    return (
        combined if parts > 1 and len([*_distinct([*variants, combined])]) > len(variants) else None
    )


def _helps(measured: Measurement, plain: Measurement, tuning: Tuning) -> bool:
    return (
        measured.ok
        and measured.similarity >= tuning.quality
        and measured.generation_s <= WORTHWHILE * plain.generation_s
    )


def _difference(base: Recipe, changed: Recipe) -> dict[str, Any]:
    before, after = asdict(base), asdict(changed)
    return {name: getattr(changed, name) for name in after if after[name] != before[name]}


def _distinct(variants: Any) -> Iterator[RecipeVariant]:
    seen: list[tuple[dict[str, Any], dict[str, Any]]] = []
    for variant in variants:
        key = ({**asdict(variant.recipe), "memory_gb": 0}, dict(variant.options))
        if key not in seen:
            seen.append(key)
            yield variant
