from __future__ import annotations

import pickle
from dataclasses import replace

from serve_app.domain.endpoint import Endpoint, Recipe, Weights

FLUX = Endpoint(id="a/b", family="flux", weights=Weights("o/n", "f" * 40), schema="s")


def test_equal_specifications_have_equal_digests() -> None:
    assert (
        replace(FLUX, options={"x": 1, "y": 2}).digest
        == replace(FLUX, options={"y": 2, "x": 1}).digest
    )


def test_any_change_changes_the_digest() -> None:
    others = [
        replace(FLUX, weights=Weights("o/n", "e" * 40)),
        replace(FLUX, defaults={"steps": 4}),
        replace(FLUX, bounds={"steps": (1.0, 4.0)}),
        replace(FLUX, options={"dtype": "float32"}),
    ]
    assert len({endpoint.digest for endpoint in (FLUX, *others)}) == 5


def test_a_specification_crosses_processes() -> None:
    assert pickle.loads(pickle.dumps(FLUX)).digest == FLUX.digest  # noqa: S301


def test_a_device_gets_the_recipe_for_the_most_memory_that_it_has() -> None:
    small, large = Recipe(12, "float8", "blocks", ("vae",)), Recipe(24, "float16")
    endpoint = replace(FLUX, recipes=(small, large))
    assert endpoint.recipe_for(24_564 * 2**20) == large  # as reported by a card sold with 24 GB
    assert endpoint.recipe_for(int(22.03 * 2**30)) == large  # what programs see of an L4
    assert endpoint.recipe_for(16 * 10**9) == small
    assert endpoint.recipe_for(12 * 10**9) == small
    assert endpoint.recipe_for(8 * 10**9) is None
    assert FLUX.recipe_for(10**12) is None
    assert endpoint.digest != FLUX.digest
