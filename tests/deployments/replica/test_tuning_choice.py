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


def measured(variant: str, seconds: float, **more: Any) -> Measurement:
    return Measurement(variant, RECIPE, generation_s=seconds, **more)


def tuning(*measurements: Measurement, **more: Any) -> Tuning:
    values = {"steps": 4, "quality": 0.9, "device_bytes": 100, **more}
    return Tuning(MACHINE, "flux:a/b@1", "1", ("e",), measurements=tuple(measurements), **values)


def chosen(*measurements: Measurement, **more: Any) -> str | None:
    found = tuning(*measurements, **more).chosen
    return None if found is None else found.variant


def test_the_fastest_variant_within_the_quality_bound_is_chosen() -> None:
    plain, fast = measured("plain", 2.0), measured("fast", 1.0)
    blurred = measured("blurred", 0.5, similarity=0.89)
    assert chosen(plain, blurred, fast) == "fast"
    assert chosen(plain, blurred, fast, quality=0.8) == "blurred"


def test_a_variant_that_failed_is_not_chosen() -> None:
    assert chosen(measured("plain", 2.0), measured("failed", 0.0, error="out of memory")) is None


def test_a_variant_that_leaves_little_memory_is_not_chosen() -> None:
    full = measured("full", 1.0, peak_bytes=91)
    assert chosen(measured("plain", 2.0), full) is None
    assert chosen(measured("plain", 2.0), full, device_bytes=0) == "full"  # a CPU


def test_the_recipe_of_the_catalogue_stays_where_little_is_gained() -> None:
    assert chosen(measured("plain", 2.0), measured("hardly", 1.95)) is None
    default = measured("recipe", 2.0)
    assert chosen(measured("plain", 1.0), default, default="recipe") == "plain"
    assert chosen(measured("plain", 3.0), default, default="recipe") is None


def test_a_recipe_below_the_bound_gives_way_to_what_is_within_it() -> None:
    default = measured("recipe", 1.0, similarity=0.5)
    assert chosen(measured("plain", 2.0), default, default="recipe") == "plain"


def test_what_is_written_is_read_again() -> None:
    kept = tuning(
        measured("plain", 2.0), measured("fast", 1.0, options={"tiling": None}, psnr_db=40.5)
    )
    text = json.dumps(to_json([kept]))
    assert from_json(json.loads(text)) == (kept,)
    assert json.loads(text)["tunings"][0]["chosen"] == "fast"


def test_a_tuning_of_a_later_version_is_left_out() -> None:
    content = to_json([tuning(measured("plain", 2.0)), tuning(measured("plain", 1.0))])
    content["tunings"][0]["measurements"][0]["recipe"]["teleport"] = True
    assert [each.measurements[0].generation_s for each in from_json(content)] == [1.0]
    with pytest.raises(ValueError, match="format 1"):
        from_json({**content, "format": 2})


def test_a_measurement_replaces_an_earlier_one_of_its_variant() -> None:
    kept = tuning(measured("plain", 2.0), measured("fast", 1.0))
    again = kept.with_measurement(measured("plain", 3.0))
    assert [each.generation_s for each in again.measurements] == [1.0, 3.0]
    assert kept.same_subject(replace(again, steps=9))
    assert not kept.same_subject(replace(kept, machine=replace(MACHINE, driver="581")))
