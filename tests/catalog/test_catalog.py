from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from serve_app.catalog.catalog import Catalog, load
from serve_app.domain.errors import InvalidInput, Misconfigured
from tests.catalog.conftest import DEMO

SCHNELL, DEV = "fal-ai/flux/schnell", "fal-ai/flux/dev"

GOOD = """
endpoints:
  me/mine:
    family: probe
    schema: open
"""

RECIPE = "{memory_gb: 12, precision: float16}"


def write_models(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "models.yaml"
    path.write_text(text)
    return path


def load_error(tmp_path: Path, text: str) -> str:
    with pytest.raises(Misconfigured) as caught:
        load(write_models(tmp_path, text), demo=False, demo_dir=DEMO)
    return caught.value.message


def test_flux_is_built_in_at_pinned_revisions(catalog: Catalog) -> None:
    for endpoint_id in (SCHNELL, DEV):
        weights = catalog.get(endpoint_id).endpoint.weights
        assert weights.source.startswith("black-forest-labs/FLUX.1-")
        assert weights.revision is not None
        assert len(weights.revision) == 40
        assert not weights.demo


def test_demo_models_stand_in_and_say_so() -> None:
    catalog = load(None, demo=True, demo_dir=DEMO)
    entry = catalog.get(SCHNELL)
    assert entry.demo
    assert entry.endpoint.weights.source == str(DEMO / "flux")
    assert entry.endpoint.options["native_size"] == 256
    warnings = catalog.validate(SCHNELL, {"prompt": "x"}).warnings
    assert "demo" in warnings[0]


def test_each_endpoint_has_its_own_defaults(catalog: Catalog) -> None:
    body = {"prompt": "x"}
    assert catalog.validate(SCHNELL, body).input["num_inference_steps"] == 4
    assert catalog.validate(DEV, body).input["num_inference_steps"] == 28
    valid = catalog.validate(SCHNELL, body)
    assert valid.input == {
        "prompt": "x",
        "image_size": {"width": 1024, "height": 768},
        "num_inference_steps": 4,
        "guidance_scale": 3.5,
        "seed": None,
        "num_images": 1,
        "output_format": "jpeg",
        "sync_mode": False,
        "enable_safety_checker": True,
        "acceleration": "none",
    }
    assert valid.warnings == ()


def test_a_presets_name_becomes_its_size(catalog: Catalog) -> None:
    valid = catalog.validate(DEV, {"prompt": "x", "image_size": "portrait_16_9"})
    assert valid.input["image_size"] == {"width": 576, "height": 1024}
    sized = catalog.validate(DEV, {"prompt": "x", "image_size": {"width": 640}})
    assert sized.input["image_size"] == {"width": 640, "height": 512}


@pytest.mark.parametrize(
    ("fields", "loc", "type_"),
    [
        ({"prompt": None}, ("prompt",), "string_type"),
        ({"prompt": "x" * 30_000}, ("prompt",), "sequence_too_long"),
        ({"num_inference_steps": 0}, ("num_inference_steps",), "greater_than_equal"),
        ({"num_inference_steps": 13}, ("num_inference_steps",), "less_than_equal"),
        ({"num_inference_steps": "four"}, ("num_inference_steps",), "int_parsing"),
        ({"guidance_scale": 0.5}, ("guidance_scale",), "greater_than_equal"),
        ({"guidance_scale": 21}, ("guidance_scale",), "less_than_equal"),
        ({"num_images": 0}, ("num_images",), "greater_than_equal"),
        ({"num_images": 5}, ("num_images",), "less_than_equal"),
        ({"output_format": "gif"}, ("output_format",), "one_of"),
        ({"image_size": "huge"}, ("image_size",), "one_of"),
        ({"image_size": {"width": 8}}, ("image_size", "width"), "greater_than_equal"),
        ({"image_size": {"width": 14143}}, ("image_size", "width"), "less_than_equal"),
        ({"image_size": {"width": 9000, "height": 9000}}, ("image_size",), "image_too_large"),
        ({"seed": 2**64}, ("seed",), "less_than_equal"),
        ({"sync_mode": "maybe"}, ("sync_mode",), "bool_parsing"),
    ],
)
def test_a_wrong_field_is_named(
    catalog: Catalog, fields: dict[str, Any], loc: tuple[str, ...], type_: str
) -> None:
    with pytest.raises(InvalidInput) as caught:
        catalog.validate(SCHNELL, {"prompt": "x"} | fields)
    (problem,) = caught.value.problems
    assert (problem.loc, problem.type) == (("body", *loc), type_)


def test_all_wrong_fields_are_reported_together(catalog: Catalog) -> None:
    with pytest.raises(InvalidInput, match=r"prompt: Field required \(and 2 more\)") as caught:
        catalog.validate(SCHNELL, {"num_images": 9, "seed": "red"})
    assert len(caught.value.problems) == 3


def test_an_unknown_field_is_ignored_with_a_warning(catalog: Catalog) -> None:
    valid = catalog.validate(SCHNELL, {"prompt": "x", "stpes": 3, "lora": []})
    assert "stpes" not in valid.input
    assert valid.warnings == ("Ignored, because this endpoint has no such field: lora, stpes.",)


def test_a_field_without_effect_is_reported_only_when_it_was_asked_for(catalog: Catalog) -> None:
    silent = catalog.validate(SCHNELL, {"prompt": "x", "acceleration": "none"})
    assert silent.warnings == ()
    validated = catalog.validate(SCHNELL, {"prompt": "x", "acceleration": "high"})
    assert "acceleration" in validated.warnings[0]


def test_a_request_may_produce_as_many_files_as_it_asks_for(catalog: Catalog) -> None:
    entry = catalog.get(DEV)
    valid = catalog.validate(DEV, {"prompt": "x", "num_images": 3, "output_format": "png"})
    assert entry.schema.media_types(valid.input) == ("image/png",) * 3


@pytest.mark.parametrize("body", [None, [], "x", 3])
def test_an_input_is_an_object(catalog: Catalog, body: object) -> None:
    with pytest.raises(InvalidInput, match="JSON object"):
        catalog.validate(SCHNELL, body)


def test_an_open_endpoint_takes_any_object_and_counts_its_files(tmp_path: Path) -> None:
    text = GOOD + "    options: {artifacts_field: artifacts}\n    defaults: {colour: red}\n"
    catalog = load(write_models(tmp_path, text), demo=False, demo_dir=DEMO)
    valid = catalog.validate("me/mine", {"a": [1], "artifacts": 2})
    assert valid.input == {"colour": "red", "a": [1], "artifacts": 2}
    schema = catalog.get("me/mine").schema
    assert schema.media_types(valid.input) == ("application/octet-stream",) * 2
    assert schema.media_types({}) == ()
    for wrong in (-1, 65, "2", True, 1.5):
        with pytest.raises(InvalidInput, match="artifacts"):
            catalog.validate("me/mine", {"artifacts": wrong})


def test_every_schema_describes_itself(catalog: Catalog) -> None:
    schema = catalog.get(SCHNELL).schema.json_schema()
    assert schema["properties"]["num_inference_steps"]["maximum"] == 12
    assert schema["properties"]["num_inference_steps"]["default"] == 4
    assert schema["required"] == ["prompt"]


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("endpoints: [", 1, "not valid YAML"),
        ("x: 1", 1, "unknown key `x`"),
        (GOOD + "    famly: x\n", 6, "famly"),
        (GOOD.replace("open", "nothing"), 3, "there is no schema `nothing`"),
        (GOOD.replace("me/mine", "mine"), 3, "an id should be owner/name"),
        (GOOD.replace("me/mine", "queue/mine"), 3, "choose another owner"),
        (GOOD.replace("me/mine", "me/requests"), 3, "begins a request's URL"),
        (GOOD + "    family: x\n", 6, "twice"),
        (
            GOOD + f"    weights: {{directory: /a, revision: {'a' * 40}}}\n",
            6,
            "remove it for a directory",
        ),
        (GOOD + "    recipes: [{memory_gb: 12, precision: int8}]\n", 6, "float16"),
        (
            GOOD + "    recipes: [{memory_gb: 12, precision: float8, compile: true}]\n",
            6,
            "compile again",
        ),
        (GOOD + f"    recipes: [{RECIPE}, {RECIPE}]\n", 6, "by ascending memory_gb"),
        (GOOD + "    weights: {hub: a/b, revision: main}\n", 6, "should match pattern"),
        (GOOD + "    weights: {directory: weights}\n", 6, "must be an absolute path"),
        (GOOD + "    weights: {}\n", 6, "set either"),
        (GOOD + "    weights: {directory: /x, parts: {vae: {}}}\n", 6, "set either"),
        (GOOD + "    weights: {directory: /x, parts: {vae: {hub: a/b}}}\n", 6, "set both"),
        (GOOD + "    weights: {directory: /x, parts: {vae: {directory: y}}}\n", 6, "absolute"),
        (GOOD + "    weights: {directory: /x, parts: {vae: []}}\n", 6, "at least 1 item"),
        (GOOD + "    weights: {directory: /x, parts: {vae: [{}]}}\n", 6, "parts.vae.0: set either"),
        (GOOD + "    weights: {directory: /x, parts: {vae: {hub: a}}}\n", 6, "parts.vae.hub"),
        (
            GOOD + "    weights: {directory: /x, parts: {ip_adapter: ["
            "{directory: /a, file: a.safetensors}, {directory: /a}]}}\n",
            6,
            "`ip_adapter` is a file: set its `file`",
        ),
        (GOOD + "    weights: {directory: /x, parts: {1x: {directory: /y}}}\n", 6, "component"),
        (GOOD + "    weights: {directory: /x, pipeline: os.system}\n", 6, "pipeline"),
        (GOOD + "    bounds: {a: [1, 2]}\n", 3, "cannot have bounds"),
    ],
)
def test_a_mistake_is_reported_with_its_line(
    tmp_path: Path, text: str, line: int, words: str
) -> None:
    message = load_error(tmp_path, text)
    assert f"models.yaml:{line}:" in message
    assert words in message


@pytest.mark.parametrize("text", ["x: 2026-13-45", "endpoints: &a {me: *a}"])
def test_a_date_that_is_none_and_a_circle_are_reported(tmp_path: Path, text: str) -> None:
    assert "models.yaml: this is not valid YAML" in load_error(tmp_path, text)


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ("bounds: {num_inference_steps: [9, 2]}", "9 is more than 2"),
        ("bounds: {stpes: [1, 2]}", "no field stpes"),
        ("defaults: {num_images: 9}", "a default is invalid: num_images"),
        ("options: {arguments: {negativ_prompt: negative_prompt}}", "names negativ_prompt"),
    ],
)
def test_settings_that_the_schema_cannot_take_are_reported(
    tmp_path: Path, extra: str, words: str
) -> None:
    text = GOOD.replace("open", "flux-text-to-image") + f"    {extra}\n"
    assert words in load_error(tmp_path, text)


def test_a_file_that_is_not_there_is_reported(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="cannot be read"):
        load(tmp_path / "none.yaml", demo=False, demo_dir=DEMO)


def test_an_installation_may_have_no_endpoint_but_those_of_its_database(tmp_path: Path) -> None:
    file = write_models(tmp_path, "built_in: false\nendpoints: {}\n")
    assert list(load(file, demo=False, demo_dir=DEMO)) == []


def test_an_open_endpoint_names_whatever_fields_it_likes(tmp_path: Path) -> None:
    text = GOOD + "    options: {arguments: {wetness: strength}}\n"
    catalog = load(write_models(tmp_path, text), demo=False, demo_dir=DEMO)
    assert not catalog.get("me/mine").missing


def test_ones_own_weights_are_a_directory(tmp_path: Path) -> None:
    text = GOOD + "    weights: {directory: /models/mine}\n"
    catalog = load(write_models(tmp_path, text), demo=True, demo_dir=DEMO)
    assert catalog.get("me/mine").endpoint.weights.source == "/models/mine"
    assert not catalog.get("me/mine").demo


def test_acceleration_is_described_by_the_step_caches_of_the_endpoint(catalog: Catalog) -> None:
    described = catalog.get(DEV).schema.json_schema()["properties"]["acceleration"]
    assert "x-darkroom-no-effect" not in described
    assert described["description"].endswith(
        "`regular`: FirstBlockCache (threshold 0.08); `high`: FirstBlockCache (threshold 0.12). "
        "`none` computes every step."
    )
    assert catalog.validate(DEV, {"prompt": "x", "acceleration": "high"}).warnings == ()
    without = catalog.get(SCHNELL).schema.json_schema()["properties"]["acceleration"]
    assert without["x-darkroom-no-effect"]
    assert without["description"].endswith("Has no effect here: this endpoint has no step cache.")


@pytest.mark.parametrize(
    ("place", "says"),
    [
        ("options: {step_cache: {low: {name: MagCache}}}", "`name`"),
        ("options: {step_cache: {regular: {name: MagCache}, low: {name: X}}}", "no level 'low'"),
        ("recipes: [{memory_gb: 9, precision: float16, step_cache: {high: 3}}]", "`name`"),
    ],
)
def test_a_step_cache_that_is_none_stops_the_start(tmp_path: Path, place: str, says: str) -> None:
    file = tmp_path / "models.yaml"
    file.write_text(
        "endpoints:\n  a/b:\n    family: flux\n    schema: flux-text-to-image\n"
        f"    weights: {{directory: /nowhere}}\n    {place}\n"
    )
    with pytest.raises(Misconfigured, match=rf"models.yaml:6: .*{says}"):
        load(file, demo=False, demo_dir=tmp_path)


def test_levels_that_depend_on_the_gpu_are_described(tmp_path: Path) -> None:
    file = tmp_path / "models.yaml"
    file.write_text(
        "endpoints:\n  a/b:\n    family: flux\n    schema: flux-text-to-image\n"
        "    weights: {directory: /nowhere}\n    recipes:\n"
        "      - {memory_gb: 24, precision: bfloat16}\n"
        "      - {memory_gb: 80, precision: bfloat16, step_cache: {name: TaylorSeer}}\n"
    )
    entry = load(file, demo=False, demo_dir=tmp_path).get("a/b")
    described = entry.schema.json_schema()["properties"]["acceleration"]["description"]
    assert described.endswith(
        "`regular`: TaylorSeer; `high`: as `regular`. It depends on the GPU. `none` computes every "
        "step."
    )


def test_steps_that_requests_choose_cannot_be_fixed(tmp_path: Path) -> None:
    text = """
endpoints:
  a/b:
    family: generic
    schema: qwen-image-text-to-image
    weights: {directory: /nowhere}
    options: {fixed: {num_inference_steps: 4}}
"""
    assert "`options.fixed` has num_inference_steps" in load_error(tmp_path, text)


REAL = """
endpoints:
  me/mine:
    family: generic
    schema: open
    weights: {hub: me/mine, revision: 741f7c3ce8b383c54771c7003378a50191e9efe9}
"""
FOR_A_GPU = "    recipes: [{memory_gb: 24, precision: bfloat16}]\n"
FOR_A_CPU = "    cpu: {seconds: 30}\n"


@pytest.mark.parametrize("more", ["", FOR_A_CPU, FOR_A_GPU + FOR_A_CPU])
def test_real_weights_that_run_on_a_cpu_are_served_beside_demo_models(
    tmp_path: Path, more: str
) -> None:
    catalog = load(write_models(tmp_path, REAL + more), demo=True, demo_dir=DEMO)
    entry = catalog.get("me/mine")
    assert not entry.demo
    assert entry.endpoint.weights.source == "me/mine"
    assert catalog.get("fal-ai/flux/schnell").demo


def test_real_weights_with_recipes_for_gpus_alone_are_not_served_without_one(
    tmp_path: Path,
) -> None:
    catalog = load(write_models(tmp_path, REAL + FOR_A_GPU), demo=True, demo_dir=DEMO)
    assert "`cpu: {}`" in catalog.get_listed("me/mine").missing


def test_real_weights_without_a_revision_are_not_served_beside_demo_models_either(
    tmp_path: Path,
) -> None:
    text = REAL.replace(", revision: 741f7c3ce8b383c54771c7003378a50191e9efe9", "")
    catalog = load(write_models(tmp_path, text), demo=True, demo_dir=DEMO)
    assert "`weights.revision`" in catalog.get_listed("me/mine").missing


def test_an_entry_chooses_its_demo_model_or_its_own_weights(tmp_path: Path) -> None:
    text = REAL + FOR_A_CPU + "    demo: {weights: flux}\n"
    with pytest.raises(Misconfigured, match="set `demo` or `cpu`"):
        load(write_models(tmp_path, text), demo=True, demo_dir=DEMO)
