"""Switches that built-in recipes leave off: each has its reason in the docs, and no reason is of a
switch that is on."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from fnmatch import fnmatch
from pathlib import Path

from deployments.tuning.variants import PLACEMENT, SWITCHES
from serve_app.catalog.catalog import Catalog
from serve_app.domain.endpoint import EIGHT_BITS, Recipe

PAGE = Path(__file__).parents[2] / "deployments" / "tuning" / "README.md"
HEADING = "### Switches that are off"

IS_ON: Mapping[str, Callable[[Recipe], bool]] = {
    "`compile`": lambda recipe: recipe.compile,
    "`compile_decoder`": lambda recipe: recipe.compile_decoder,
    "`graphs`": lambda recipe: recipe.graphs,
    "8-bit products": lambda recipe: recipe.precision.endswith("-dynamic"),
    "`attention`": lambda recipe: bool(recipe.attention),
}
"""By the name in the table."""

FIELDS = {"compile", "compile_decoder", "graphs", "precision", "attention"}


def rows() -> Iterator[tuple[str, list[str], str]]:
    """Switch, patterns of endpoints, and reason."""
    text = PAGE.read_text().split(HEADING)[1].split("\n## ")[0]
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if line.startswith("|") and cells[0] in IS_ON:
            switch, endpoints, reason = cells
            yield switch, re.findall("`([^`]+)`", endpoints), reason


def lacking(catalog: Catalog) -> set[tuple[str, str]]:
    """Switch and endpoint, where a recipe leaves it off."""
    return {
        (switch, entry.endpoint.id)
        for entry in catalog
        for switch, is_on in IS_ON.items()
        if not all(is_on(recipe) for recipe in entry.endpoint.recipes)
    }


def test_each_switch_that_a_recipe_leaves_off_has_a_reason(catalog: Catalog) -> None:
    known = [
        (switch, pattern) for switch, patterns, reason in rows() if reason for pattern in patterns
    ]
    without = {
        (switch, endpoint)
        for switch, endpoint in lacking(catalog)
        if not any(switch == name and fnmatch(endpoint, pattern) for name, pattern in known)
    }
    assert not without, "Add a row to the table, with the reason, or switch it on."


def test_no_reason_is_of_a_switch_that_is_on(catalog: Catalog) -> None:
    absent = lacking(catalog)
    for switch, patterns, _ in rows():
        for pattern in patterns:
            served = [entry.endpoint.id for entry in catalog if entry.endpoint.recipes]
            named = [endpoint_id for endpoint_id in served if fnmatch(endpoint_id, pattern)]
            assert named, pattern
            assert {(switch, endpoint_id) for endpoint_id in named} <= absent, (switch, pattern)


def test_whatever_tuning_switches_on_is_in_the_table() -> None:
    """A field of a recipe that is new to tuning is a switch here, or placement."""
    assert {name for switch in SWITCHES for name in switch.recipe} - PLACEMENT <= FIELDS
    precisions = {switch.recipe.get("precision", "") for switch in SWITCHES}
    assert precisions & {*EIGHT_BITS} == {*EIGHT_BITS}
