"""Variants of a recipe that ``darkroom tune`` measures.

``SWITCHES`` is the table. To measure another switch, add a row that names the field of ``Recipe``
or the option that it sets, and the recipes for which it makes sense.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from deployments.replica.tuned import PLAIN, WORTHWHILE, Measurement, Tuning
from serve_app.domain.endpoint import Endpoint, Recipe

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


def _tiles(subject: Subject) -> bool:
    return bool(subject.endpoint.options.get("tiling"))


SWITCHES: Sequence[Switch] = (
    # Without it, there is nothing to copy. It may not fit, and is then marked.
    Switch("on the device", {"offload": "none", "hot": ()}, exact=True, applies=_offloads),
    # Slower, and the reference where plain does not fit.
    Switch("streamed", {"offload": "blocks"}, exact=True, applies=_offloads),
    Switch("compiled", {"compile": True}),
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
    Switch("channels last", {"channels_last": True}),
    Switch("untiled", options={"tiling": None}, applies=_tiles),
)

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
    found = [RecipeVariant(PLAIN, plain, exact=True)]
    if subject.recipe is not None:
        found.append(RecipeVariant(CATALOGUE, subject.recipe))
    for switch in SWITCHES:
        if not switch.applies(subject):
            continue
        changed = replace(plain, **switch.recipe)
        found.append(RecipeVariant(switch.name, changed, switch.options, exact=switch.exact))
    return [*_distinct(each for each in found if allowed(each.recipe))]


def default_name(found: Sequence[RecipeVariant]) -> str:
    """Name of the candidate that is the catalogue's recipe."""
    return CATALOGUE if any(each.name == CATALOGUE for each in found) else PLAIN


def allowed(recipe: Recipe) -> bool:
    """Return whether the catalogue would accept the recipe: weights that hooks move make every
    compiled block compile again."""
    return not (recipe.compile and (recipe.precision == "float8" or recipe.offload == "blocks"))


def combination(found: Sequence[RecipeVariant], tuning: Tuning) -> RecipeVariant | None:
    """Variant with all switches that are faster than plain on their own and within the quality
    bound. Where two contradict, the faster one stays. None if fewer than two are left."""
    plain = tuning.find(PLAIN)
    if plain is None or not plain.ok:
        return None
    helpful = sorted(
        (measured.generation_s, each.name, each)
        for each in found
        if each.name not in (PLAIN, CATALOGUE) and (measured := tuning.find(each.name))
        if _helps(measured, plain, tuning)
    )
    base = found[0].recipe
    recipe, options, parts = base, dict[str, Any](), 0
    for _, _, each in helpful:
        change = _difference(base, each.recipe)
        if any(getattr(recipe, name) != getattr(base, name) for name in change):
            continue  # a faster one has set it
        changed = replace(recipe, **change)
        if allowed(changed):
            recipe, options, parts = changed, {**each.options, **options}, parts + 1
    combined = RecipeVariant(COMBINED, recipe, options)
    return combined if parts > 1 and len([*_distinct([*found, combined])]) > len(found) else None


def _helps(measured: Measurement, plain: Measurement, tuning: Tuning) -> bool:
    return (
        measured.ok
        and measured.similarity >= tuning.quality
        and measured.generation_s <= WORTHWHILE * plain.generation_s
    )


def _difference(base: Recipe, changed: Recipe) -> dict[str, Any]:
    before, after = asdict(base), asdict(changed)
    return {name: getattr(changed, name) for name in after if after[name] != before[name]}


def _distinct(found: Any) -> Iterator[RecipeVariant]:
    seen: list[tuple[dict[str, Any], dict[str, Any]]] = []
    for each in found:
        key = ({**asdict(each.recipe), "memory_gb": 0}, dict(each.options))
        if key not in seen:
            seen.append(key)
            yield each
