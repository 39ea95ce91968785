"""Choice among measured variants, and the JSON that keeps them."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from deployments.replica.tuned import Machine, Measurement, Tuning, from_json, to_json
from serve_app.domain.endpoint import Recipe

RECIPE = Recipe(24, "bfloat16", hot=("vae",), dtypes={"vae": "float32"})
MACHINE = Machine("H200", "580.1", "2.13", "0.42")


def make_measurement(variant: str, seconds: float, **more: Any) -> Measurement:
    return Measurement(variant, RECIPE, generation_s=seconds, **more)


def tuning(*measurements: Measurement, **more: Any) -> Tuning:
    values: dict[str, Any] = {"steps": 4, "quality": 0.9, "device_bytes": 100, **more}
    return Tuning(MACHINE, "flux:a/b@1", "1", ("e",), measurements=tuple(measurements), **values)


def chosen_variant(*measurements: Measurement, **more: Any) -> str | None:
    choice = tuning(*measurements, **more).chosen_variant
    return None if choice is None else choice.variant


def test_the_fastest_variant_within_the_quality_bound_is_chosen() -> None:
    plain, fast = make_measurement("plain", 2.0), make_measurement("fast", 1.0)
    blurred = make_measurement("blurred", 0.5, similarity=0.89)
    assert chosen_variant(plain, blurred, fast) == "fast"
    assert chosen_variant(plain, blurred, fast, quality=0.8) == "blurred"


def test_a_variant_that_failed_is_not_chosen() -> None:
    assert (
        chosen_variant(
            make_measurement("plain", 2.0), make_measurement("failed", 0.0, error="out of memory")
        )
        is None
    )


def test_a_variant_that_leaves_little_memory_is_not_chosen() -> None:
    full = make_measurement("full", 1.0, peak_bytes=91)
    assert chosen_variant(make_measurement("plain", 2.0), full) is None
    assert chosen_variant(make_measurement("plain", 2.0), full, device_bytes=0) == "full"  # a CPU


def test_the_recipe_of_the_catalogue_stays_where_little_is_gained() -> None:
    assert chosen_variant(make_measurement("plain", 2.0), make_measurement("hardly", 1.95)) is None
    default = make_measurement("recipe", 2.0)
    assert chosen_variant(make_measurement("plain", 1.0), default, default="recipe") == "plain"
    assert chosen_variant(make_measurement("plain", 3.0), default, default="recipe") is None


def test_a_recipe_below_the_bound_gives_way_to_what_is_within_it() -> None:
    default = make_measurement("recipe", 1.0, similarity=0.5)
    assert chosen_variant(make_measurement("plain", 2.0), default, default="recipe") == "plain"


CACHE = {"name": "FirstBlockCache", "threshold": 0.1}
STRONGER = {"name": "FirstBlockCache", "threshold": 0.2}


def chosen_cache(*measurements: Measurement, **more: Any) -> str | None:
    choice = tuning(*measurements, **more).chosen_step_cache
    return None if choice is None else choice.variant


def test_a_step_cache_is_chosen_within_the_quality_bound_and_only_beside_the_recipe() -> None:
    plain, fast = make_measurement("plain", 2.0), make_measurement("fast", 1.0)
    weak = make_measurement("weak", 0.8, step_cache=CACHE)
    strong = make_measurement("strong", 0.5, step_cache=STRONGER, similarity=0.89)
    assert chosen_variant(plain, fast, weak, strong) == "fast"  # requests without a cache run by it
    assert chosen_cache(plain, fast, weak, strong) == "weak"
    assert chosen_cache(plain, fast, weak, strong, quality=0.8) == "strong"
    assert chosen_cache(plain, fast, strong) is None
    assert chosen_cache(plain, fast, make_measurement("hardly", 0.98, step_cache=CACHE)) is None


def test_a_step_cache_that_was_measured_with_another_recipe_is_not_chosen() -> None:
    other = replace(
        make_measurement("weak", 0.5, step_cache=CACHE), recipe=replace(RECIPE, compile=True)
    )
    assert chosen_cache(make_measurement("plain", 2.0), other) is None
    assert (
        chosen_cache(make_measurement("weak", 0.5, step_cache=CACHE)) is None
    )  # plain did not run


def test_the_chosen_step_cache_is_regular_and_a_slower_high_one_is_left_out() -> None:
    declared = {"regular": {"name": "MagCache"}, "high": STRONGER}
    plain, weak = make_measurement("plain", 2.0), make_measurement("weak", 1.0, step_cache=CACHE)
    slower, faster = (
        make_measurement("strong", seconds, step_cache=STRONGER, similarity=0.5)
        for seconds in (1.1, 0.9)
    )
    assert tuning(plain).levels(declared) == declared
    assert tuning(plain, weak, slower).levels(declared) == {"regular": CACHE}
    assert tuning(plain, weak, faster).levels(declared) == {"regular": CACHE, "high": STRONGER}


def test_measurements_with_other_adapters_are_not_compared() -> None:
    kept = tuning(make_measurement("plain", 2.0))
    assert kept.same_work(replace(kept, quality=0.5))
    assert not kept.same_work(replace(kept, steps=9))
    assert not kept.same_work(replace(kept, adapters=("", "lora")))


def test_what_is_written_is_read_again() -> None:
    kept = tuning(
        make_measurement("plain", 2.0),
        make_measurement("fast", 1.0, options={"tiling": None}, psnr_db=40.5),
        make_measurement("cached", 0.5, options={"tiling": None}, step_cache=CACHE),
        adapters=("", "lora"),
    )
    text = json.dumps(to_json([kept]))
    assert from_json(json.loads(text)) == (kept,)
    assert json.loads(text)["tunings"][0]["chosen"] == "fast"
    assert json.loads(text)["tunings"][0]["chosen_step_cache"] == "cached"


def test_a_tuning_of_a_later_version_is_left_out() -> None:
    content = to_json(
        [tuning(make_measurement("plain", 2.0)), tuning(make_measurement("plain", 1.0))]
    )
    content["tunings"][0]["measurements"][0]["recipe"]["teleport"] = True
    assert [entry.measurements[0].generation_s for entry in from_json(content)] == [1.0]
    with pytest.raises(ValueError, match="format 1"):
        from_json({**content, "format": 2})


def test_a_measurement_replaces_an_earlier_one_of_its_variant() -> None:
    kept = tuning(make_measurement("plain", 2.0), make_measurement("fast", 1.0))
    again = kept.with_measurement(make_measurement("plain", 3.0))
    assert [measurement.generation_s for measurement in again.measurements] == [1.0, 3.0]
    assert kept.same_subject(replace(again, steps=9))
    assert not kept.same_subject(replace(kept, machine=replace(MACHINE, driver="581")))
