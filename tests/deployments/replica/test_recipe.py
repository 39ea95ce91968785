"""Choice of a recipe, and the message if none fits."""

import shutil
from dataclasses import replace

import pytest
import torch

from deployments.families.base import load_families
from deployments.families.registry import FAMILIES
from deployments.replica.resources import (
    loaded_name,
    recipe_for_device,
    weights_name,
    with_recipe_dtype,
)
from serve_app.domain.endpoint import Endpoint, Recipe, Weights, WorkLimit
from serve_app.domain.errors import WeightsUnavailable
from tests.engine.tiny import save_tiny_flux, tiny_flux

pytestmark = pytest.mark.engine

RECIPES = (
    Recipe(12, "float8", "blocks", ("vae",)),
    Recipe(24, "bfloat16", "components", ("transformer", "vae")),
)
ENDPOINT = Endpoint(
    "e", "flux", Weights("a/b", "1"), "s", options={"dtype": "float16"}, recipes=RECIPES
)
PROMPT = {
    "prompt": "a red circle",
    "image_size": {"width": 64, "height": 64},
    "num_inference_steps": 2,
    "guidance_scale": 3.5,
}


def test_for_a_gpu_that_is_too_small_the_error_says_what_the_endpoint_takes():
    assert recipe_for_device(ENDPOINT, 16 * 10**9) == RECIPES[0]
    with pytest.raises(WeightsUnavailable, match=r"at least 12 GB.* has 8\.0 GB"):
        recipe_for_device(ENDPOINT, 8 * 10**9)


def test_there_are_no_recipes_on_a_cpu_and_for_an_endpoint_without():
    assert recipe_for_device(ENDPOINT, 0) is None
    assert recipe_for_device(Endpoint("e", "flux", Weights("a/b"), "s"), 8 * 10**9) is None


def test_the_recipe_says_what_is_loaded_unless_it_is_for_storing_alone():
    assert with_recipe_dtype(ENDPOINT, RECIPES[1]).options == {"dtype": "bfloat16"}
    assert with_recipe_dtype(ENDPOINT, RECIPES[0]) == with_recipe_dtype(ENDPOINT, None) == ENDPOINT


def test_a_recipe_may_load_a_component_in_less_than_the_endpoint_asks_for():
    endpoint = replace(ENDPOINT, options={"dtypes": {"vae": "float32", "text_encoder": "float16"}})
    tight = replace(RECIPES[1], dtypes={"vae": "bfloat16"})
    loaded = with_recipe_dtype(endpoint, tight).options
    assert loaded["dtypes"] == {"vae": "bfloat16", "text_encoder": "float16"}
    assert weights_name(endpoint, tight) != weights_name(endpoint, RECIPES[1])


def test_endpoints_share_weights_of_the_same_source_revision_type_and_recipe():
    def name(source="a/b", revision="1", recipe=None, **options):
        endpoint = Endpoint("e", "flux", Weights(source, revision), "s", options=options)
        return weights_name(endpoint, recipe)

    assert name() == name(native_size=128)
    names = {name(), name("a/c"), name(revision="2"), name(dtype="float16")}
    assert len(names | {name(recipe=recipe) for recipe in RECIPES}) == 6
    compiled = replace(RECIPES[1], compile=True)
    assert name(recipe=compiled) != name(recipe=RECIPES[1])


def test_another_variant_of_the_weights_is_another_pipeline():
    plain = Endpoint("e", "flux", Weights("a/b", "1"), "s")
    half = Endpoint("e", "flux", Weights("a/b", "1", variant="fp16"), "s")
    assert weights_name(plain, None) != weights_name(half, None)


def test_endpoints_with_other_amendments_hold_weights_of_their_own():
    def name(**options):
        endpoint = Endpoint("e", "flux", Weights("a/b", "1"), "s", options=options)
        return weights_name(endpoint, None)

    adapter, solver = {"hub": "a/lora", "revision": "1"}, {"name": "LCMScheduler"}
    others = [
        name(adapter=adapter),
        name(adapter=adapter | {"scale": 0.5}),
        name(solver=solver),
        name(adapter=adapter, solver=solver),
    ]
    assert len({name(), *others}) == 1 + len(others)
    assert name(adapter=adapter) == name(adapter=dict(reversed(adapter.items())))


async def test_where_no_recipe_fits_nothing_is_loaded(rig, monkeypatch):
    monkeypatch.setattr(rig.resources.engine, "device_bytes", lambda: 8 * 10**9)
    endpoint = Endpoint("big", "flux", Weights("nobody/nothing"), "s", recipes=RECIPES)
    outcome = await rig.outcome(rig.offer("one", endpoint=endpoint, **PROMPT))
    assert outcome.failure.code == "weights_unavailable"
    assert "at least 12 GB" in outcome.failure.message


async def test_a_replica_on_a_gpu_holds_the_weights_by_its_recipe(rig, monkeypatch, tmp_path):
    """The device is the CPU, which claims to be a GPU with 24 GB."""
    monkeypatch.setattr(rig.resources.engine, "device_bytes", lambda: 24 * 10**9)
    weights = Weights(str(save_tiny_flux(tmp_path)))
    endpoint = Endpoint("tiny", "flux", weights, "s", recipes=RECIPES)
    outcome = await rig.outcome(rig.offer("one", endpoint=endpoint, **PROMPT))
    assert outcome.failure is None
    pipeline = rig.resources.residency.find(weights_name(endpoint, RECIPES[1]))
    assert pipeline.transformer.dtype is torch.bfloat16
    assert not hasattr(pipeline.transformer, "_hf_hook")
    assert hasattr(pipeline.text_encoder_2, "_hf_hook")


async def test_a_folder_with_other_files_is_loaded_again_under_another_version(rig, tmp_path):
    loaded = []
    for version in ("one", "two"):
        pipeline = tiny_flux()
        with torch.no_grad():
            pipeline.transformer.x_embedder.bias.fill_(len(loaded))
        shutil.rmtree(tmp_path)
        pipeline.save_pretrained(tmp_path)
        endpoint = Endpoint("tiny", "flux", Weights(str(tmp_path), version=version), "s")
        outcome = await rig.outcome(rig.offer(version, endpoint=endpoint, **PROMPT))
        assert outcome.failure is None
        pipeline = rig.resources.residency.find(loaded_name(endpoint, None))
        loaded.append(pipeline.transformer.x_embedder.bias[0].item())
    assert loaded == [0, 1]


class Plans:
    """Replacement for the loader: records the plans."""

    def __init__(self):
        self.kept = []

    def acquire(self, _name, plan, _on_progress, *, spare):
        assert not spare
        self.kept.append(plan)


async def test_a_replica_compiles_by_the_recipe_what_its_family_warms_up(
    rig, monkeypatch, tmp_path, caplog
):
    monkeypatch.setattr(rig.resources.engine, "device_bytes", lambda: 24 * 10**9)
    weights = Weights(str(save_tiny_flux(tmp_path)))
    recipes = (Recipe(8, "float32", compile=True),)
    plans = Plans()
    known = {**FAMILIES, "probe": "tests.fakes.family:ProbeFamily"}
    resources = replace(rig.resources, residency=plans)
    for name in ("flux", "probe"):
        options = {"task": "text-to-image"}
        endpoint = Endpoint("tiny", name, weights, "s", options=options, recipes=recipes)
        resources.acquire(load_families(known)[name], endpoint)
    compiled, plain = plans.kept
    assert (compiled.recipe.compile, plain.recipe.compile) == (True, False)
    assert (compiled.warm_up is None, plain.warm_up is None) == (False, True)
    plain.load(lambda *_: None, lambda _: None)
    assert "tiny is not compiled: the family probe" in caplog.text


def limited_endpoint(tmp_path, **limit):
    recipe = Recipe(24, "float32", largest=WorkLimit(**limit))
    return Endpoint("tiny", "flux", Weights(str(save_tiny_flux(tmp_path))), "s", recipes=(recipe,))


async def test_a_request_above_the_recipes_largest_work_ends_before_any_step(
    rig, monkeypatch, tmp_path
):
    monkeypatch.setattr(rig.resources.engine, "device_bytes", lambda: 24 * 10**9)
    endpoint = limited_endpoint(tmp_path, megapixels=0.003)
    failure = (await rig.outcome(rig.offer("one", endpoint=endpoint, **PROMPT))).failure
    assert (failure.code, failure.retryable) == ("invalid_input", False)
    assert "64×64 is 0.0041 megapixels" in failure.message
    assert rig.resources.engine.counts()["forwards"] == 0


async def test_a_request_above_the_limit_of_decoding_at_once_is_decoded_in_tiles(
    rig, monkeypatch, tmp_path
):
    monkeypatch.setattr(rig.resources.engine, "device_bytes", lambda: 24 * 10**9)
    options = []
    submit = rig.resources.engine.submit

    def noting(**arguments):
        options.append(arguments["options"])
        return submit(**arguments)

    monkeypatch.setattr(rig.resources.engine, "submit", noting)
    endpoint = limited_endpoint(tmp_path, megapixels=4.2, tile_above=0.003)
    assert (await rig.outcome(rig.offer("one", endpoint=endpoint, **PROMPT))).failure is None
    small = {**PROMPT, "image_size": {"width": 32, "height": 32}}
    assert (await rig.outcome(rig.offer("two", endpoint=endpoint, **small))).failure is None
    assert [option.tiles for option in options] == [True, False]
