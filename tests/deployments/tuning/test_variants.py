"""The table of variants: which rows apply, and what is combined."""

from dataclasses import replace

from deployments.replica.tuned import Machine, Measurement, Tuning
from deployments.tuning.variants import (
    BENCHMARKED,
    Subject,
    candidates,
    combination,
    default_name,
    plain_of,
    reason_against,
)
from serve_app.domain.endpoint import Endpoint, Recipe, Weights

ENDPOINT = Endpoint("e", "flux", Weights("a/b", "1"), "s")
LARGE = Recipe(80, "bfloat16", hot=("transformer",))
SMALL = Recipe(24, "float8", "components", ("transformer",))


def names(recipe, *, discrete=True, **options):
    endpoint = Endpoint("e", "flux", Weights("a/b", "1"), "s", options=options)
    return [candidate.name for candidate in candidates(Subject(endpoint, recipe, discrete))]


def test_plain_comes_first_and_has_no_switches():
    first = candidates(Subject(ENDPOINT, SMALL, discrete=True))[0]
    assert (first.name, first.exact) == ("plain", True)
    assert first.recipe == Recipe(24, "bfloat16", "components", ("transformer",))


def test_plain_is_bfloat16_on_a_gpu_and_float32_on_a_cpu():
    assert plain_of(Subject(ENDPOINT, None, discrete=True)).precision == "bfloat16"
    assert plain_of(Subject(ENDPOINT, None, discrete=False)).precision == "float32"


def test_the_recipe_is_measured_where_it_is_not_the_plain_one():
    assert "recipe" in names(SMALL)
    assert "recipe" not in names(LARGE)
    assert default_name(candidates(Subject(ENDPOINT, SMALL, discrete=True))) == "recipe"
    assert default_name(candidates(Subject(ENDPOINT, LARGE, discrete=True))) == "plain"


def test_offloading_is_varied_only_where_the_recipe_offloads():
    assert {"on the device", "streamed", "float8 on the device"} <= set(names(SMALL))
    assert not {"on the device", "streamed", "float8 on the device"} & set(names(LARGE))


def test_tiles_are_left_out_only_where_there_are_some():
    assert "untiled" in names(LARGE, tiling=True)
    assert "untiled" not in names(LARGE)


def test_decoders_are_compiled_for_images_on_a_gpu_only():
    def found(category, *, discrete=True):
        endpoint = replace(ENDPOINT, category=category)
        return [candidate.name for candidate in candidates(Subject(endpoint, LARGE, discrete))]

    assert "compiled decoder" in found("text-to-image")
    assert "compiled decoder" not in found("text-to-video")
    assert "compiled decoder" not in found("text-to-image", discrete=False)


def test_no_variant_compiles_what_the_catalogue_would_refuse():
    streamed = Recipe(12, "float8", "blocks")
    for candidate in candidates(Subject(ENDPOINT, streamed, discrete=True)):
        assert not (candidate.recipe.compile and candidate.recipe.offload == "blocks")


def make_tuning(**seconds):
    variants = candidates(Subject(ENDPOINT, LARGE, discrete=True))
    by_name = {candidate.name: candidate for candidate in variants}
    measurements = tuple(
        Measurement(name, by_name[name].recipe, generation_s=duration)
        for name, duration in seconds.items()
    )
    machine = Machine("GPU", "1", "2", "3")
    return variants, Tuning(machine, "m", "1", ("e",), 4, 0.9, 0, measurements=measurements)


def test_switches_that_help_on_their_own_are_measured_together():
    combined = combination(*make_tuning(plain=2.0, compiled=1.5, float16=1.8, float8=3.0))
    assert combined.recipe.compile
    assert combined.recipe.precision == "float16"


def test_of_two_that_contradict_the_faster_one_stays():
    variants, tuning = make_tuning(plain=2.0, compiled=1.5, float16=1.8, float8=1.7)
    assert combination(variants, tuning) is not None
    assert combination(variants, tuning).recipe.precision == "float16"  # float8 is not compiled


def test_one_switch_alone_is_no_combination():
    assert combination(*make_tuning(plain=2.0, compiled=1.5, float16=1.99)) is None


IMAGES = replace(ENDPOINT, category="text-to-image")


def against(recipe, *off):
    """Reasons by variant, where the switches ``off`` are off."""
    subject = Subject(IMAGES, recipe, discrete=True)
    reasons = dict.fromkeys(off, "slower")
    objections = {
        candidate.name: reason_against(candidate, reasons) for candidate in candidates(subject)
    }
    return {name: reason for name, reason in objections.items() if reason}


def test_a_variant_is_left_out_for_the_switch_that_it_sets():
    assert against(LARGE, "graphs") == {"graphs": "graphs is off: slower"}
    assert list(against(LARGE, "compile_decoder")) == ["compiled decoder"]
    assert against(LARGE) == {}


def test_products_in_8_bits_are_left_out_for_their_own_verdicts_only():
    assert list(against(LARGE, "compile")) == ["compiled"]
    assert not against(LARGE, "int8-dynamic")  # the benchmark has no verdict on it
    assert list(against(LARGE, "float8-dynamic")) == ["products in float8"]


def test_plain_and_the_recipe_are_never_left_out():
    left_out = against(replace(LARGE, compile=True, graphs=True), *BENCHMARKED)
    assert {"compiled", "attention by cuDNN"} <= set(left_out)
    assert not {"plain", "recipe"} & set(left_out)


def test_a_model_may_pass_masks():
    for recipe in (LARGE, None):
        assert against(recipe, "attention") == {}
        both = against(recipe, "attention", "attention with masks")
        assert both == dict.fromkeys(
            ["attention by cuDNN", "attention by flash"],
            "attention is off: slower; attention with masks is off: slower",
        )


def test_each_switch_of_the_benchmark_is_one_of_a_variant():
    subject = Subject(IMAGES, LARGE, discrete=True)
    for has in BENCHMARKED.values():
        assert any(has(candidate.recipe) for candidate in candidates(subject))
