"""The schema of an entry that declares its inputs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from serve_app.catalog.catalog import StoredEntry, build_stored
from serve_app.catalog.entries import EntryBuilder
from serve_app.catalog.schema.declared import DESCRIPTIONS, DeclaredSchema
from serve_app.catalog.work import expected_quantities
from serve_app.domain.endpoint import Endpoint, Weights
from serve_app.domain.errors import InvalidInput

URL = "https://example.org/cat.png"
PROMPT = {"type": "text", "required": True}


def endpoint(inputs: Any, family: str = "generic", **keys: Any) -> Endpoint:
    return Endpoint(
        "house/x", family, Weights("/x"), "declared", options={"inputs": inputs}, **keys
    )


def schema(family: str = "generic", **inputs: Mapping[str, Any]) -> DeclaredSchema:
    return DeclaredSchema(endpoint({"prompt": PROMPT, **inputs}, family))


def test_a_request_has_the_declared_fields_in_their_order_before_those_of_every_input() -> None:
    properties = schema(image_size={"type": "size"}).json_schema()["properties"]
    assert [*properties][:3] == ["prompt", "image_size", "seed"]
    assert {"seeds", "output_format", "sync_mode", "enable_safety_checker"} <= properties.keys()
    assert properties["prompt"]["description"] == DESCRIPTIONS["prompt"]


@pytest.mark.parametrize(
    ("declared", "good", "bad", "type_"),
    [
        ({"type": "text"}, "a", 1, "string_type"),
        ({"type": "text", "choices": ["a", "b"]}, "a", "c", "one_of"),
        ({"type": "integer", "least": 1, "most": 3}, 3, 4, "less_than_equal"),
        ({"type": "number", "least": 0}, 0.5, -1, "greater_than_equal"),
        ({"type": "number"}, 0.5, float("inf"), "finite_number"),
        ({"type": "boolean"}, True, "perhaps", "bool_parsing"),
        ({"type": "texts"}, ["a"], "a", "list_type"),
        ({"type": "integers", "least": 2, "most": 2}, [1, 2], [1], "sequence_too_short"),
        ({"type": "numbers"}, [0.5], ["a"], "float_parsing"),
        ({"type": "integers", "argument": "timesteps"}, [9, 0], [], "sequence_too_short"),
        ({"type": "numbers", "argument": "sigmas"}, [1.0, 0.5], [1.0, 1.0], "value_error"),
        ({"type": "rows", "columns": 2}, [[0.5, 1]], [[0.5]], "sequence_too_short"),
        ({"type": "rows", "columns": 2}, [[0.5, 1]], [[0.5, 1, 2]], "sequence_too_long"),
        ({"type": "rows", "columns": 1}, [[1]], [[1]] * 21, "sequence_too_long"),
        ({"type": "rows", "columns": 1}, [[1]], [[float("nan")]], "finite_number"),
        ({"type": "rows", "columns": 1, "item_most": 1}, [[1]], [[2]], "less_than_equal"),
        ({"type": "image"}, URL, "cat.png", "url_scheme"),
        ({"type": "images", "most": 2}, [URL], [URL] * 3, "sequence_too_long"),
        ({"type": "mask"}, URL, 1, "string_type"),
        ({"type": "count"}, 4, 5, "less_than_equal"),
        ({"type": "integer", "choices": [640, 1024]}, 1024, 700, "one_of"),
        ({"type": "size"}, "square", "round", "one_of"),
        ({"type": "loras"}, [{"path": "owner/name"}], [{}], "missing"),
    ],
)
def test_a_value_is_of_its_declared_type_or_is_refused_with_the_field(
    declared: Mapping[str, Any], good: Any, bad: Any, type_: str
) -> None:
    validator = schema(field=declared)
    assert validator.validate({"prompt": "x", "field": good})[0]["field"] is not None
    with pytest.raises(InvalidInput) as error:
        validator.validate({"prompt": "x", "field": bad})
    assert {problem.loc[:2] for problem in error.value.problems} == {("body", "field")}
    assert error.value.problems[0].type == type_


@pytest.mark.parametrize(
    ("field", "declared", "too_large"),
    [
        # The tokenizer ended the process of the replica three times, with its other requests.
        ("max_sequence_length", {"type": "integer", "least": 1, "default": 512}, 2**40),
        ("num_inference_steps", {"type": "integer", "least": 1, "default": 50}, 10**6),
        ("prior_num_inference_steps", {"type": "integer", "default": 25}, 10**6),
        ("max_area", {"type": "integer"}, 10**9),
        ("silence_padding_duration", {"type": "number", "default": 0.0}, 10**6),
        ("causal_block_size", {"type": "integer"}, 2**64),
        ("guidance_scale", {"type": "number"}, 1e300),
    ],
)
def test_a_number_that_is_declared_without_bounds_cannot_take_all_memory(
    field: str, declared: Mapping[str, Any], too_large: float
) -> None:
    checked = schema(**{field: declared})
    with pytest.raises(InvalidInput) as raised:
        checked.validate({"prompt": "a", field: too_large})
    assert raised.value.problems[0].loc == ("body", field)
    assert raised.value.problems[0].type == "less_than_equal"
    listed = schema(**{field: {"type": f"{declared['type']}s"}})
    with pytest.raises(InvalidInput):
        listed.validate({"prompt": "a", field: [too_large]})


@pytest.mark.parametrize(
    ("field", "declared", "good"),
    [
        ("num_inference_steps", {"type": "integer", "default": 2000}, 2000),
        ("num_inference_steps", {"type": "integer", "most": 5000}, 5000),
        ("prompt_enhancement_seed", {"type": "integer", "default": 10}, 2**63),
        ("original_size", {"type": "integers", "least": 2, "most": 2}, [14142, 14142]),
        ("timesteps", {"type": "integers"}, [999, 0]),
        ("layer", {"type": "integer"}, -1),
    ],
)
def test_what_is_declared_lies_within_the_bounds_of_a_number(
    field: str, declared: Mapping[str, Any], good: Any
) -> None:
    checked, _ = schema(**{field: declared}).validate({"prompt": "a", field: good})
    assert checked[field] == good


def test_a_field_without_a_default_may_be_left_out_and_a_required_one_may_not() -> None:
    declared = schema(clip_skip={"type": "integer"}, eta={"type": "number", "default": 0.5})
    checked, warnings = declared.validate({"prompt": "x"})
    assert (checked["clip_skip"], checked["eta"], warnings) == (None, 0.5, ())
    with pytest.raises(InvalidInput, match="prompt"):
        declared.validate({})


def test_an_input_with_a_mask_may_give_up_what_lies_outside_it() -> None:
    assert "preserve_unmasked" not in schema().fields
    assert "preserve_unmasked" in schema(mask_url={"type": "mask", "required": True}).fields


@pytest.mark.parametrize(
    ("family", "types"),
    [
        ("generic", ("image/png",)),
        ("video", ("video/mp4", "image/jpeg")),
        ("audio", ("audio/wav", "image/png")),
    ],
)
def test_the_files_are_those_of_the_family(family: str, types: tuple[str, ...]) -> None:
    declared = schema(family)
    assert declared.media_types(declared.validate({"prompt": "x"})[0]) == types


@pytest.mark.parametrize(
    ("type_", "files", "words"),
    [
        ("images", {"image_url": URL}, "image_url: .* image_urls in its place: a list of files"),
        ("image", {"image_urls": [URL]}, "image_urls: .* image_url in its place: one file"),
    ],
)
def test_files_in_a_field_whose_twin_the_endpoint_has_are_not_left_out(
    type_: str, files: dict[str, Any], words: str
) -> None:
    inputs = schema(**{"image_urls" if type_ == "images" else "image_url": {"type": type_}})
    with pytest.raises(InvalidInput, match=words):
        inputs.validate({"prompt": "x", **files})
    nothing, warnings = inputs.validate({"prompt": "x", **dict.fromkeys(files)})
    assert "Ignored" in warnings[0]
    assert not nothing.keys() & files.keys()


def test_defaults_and_bounds_of_the_entry_hold() -> None:
    inputs = {"prompt": PROMPT, "num_inference_steps": {"type": "integer", "default": 50}}
    bounds = {"num_inference_steps": (1.0, 30.0)}
    declared = DeclaredSchema(endpoint(inputs, defaults={"num_inference_steps": 20}, bounds=bounds))
    assert declared.validate({"prompt": "x"})[0]["num_inference_steps"] == 20
    with pytest.raises(InvalidInput, match="less than or equal to 30"):
        declared.validate({"prompt": "x", "num_inference_steps": 31})


@pytest.mark.parametrize(
    ("inputs", "family", "words"),
    [
        ({}, "generic", "needs `options.inputs`"),
        (["prompt"], "generic", "must be a mapping"),
        ({"prompt": PROMPT}, "flux", "for the families generic, video, audio"),
        ({"x": {"type": "strange"}}, "generic", r"options\.inputs\.x\.type"),
        ({"x": {"type": "text", "argumnt": "y"}}, "generic", "did you mean `argument`"),
        ({"a b": PROMPT}, "generic", "'a b', which cannot be the name of a field"),
        ({"_x": PROMPT}, "generic", "'_x', which cannot be the name of a field"),
        ({"seed": {"type": "integer"}}, "generic", "has seed, which every input has"),
        ({"x": {**PROMPT, "default": "y"}}, "generic", "set `required` or `default`"),
        ({"x": {"type": "number", "choices": ["a"]}}, "generic", "`choices` belong to a text"),
        ({"x": {"type": "integer", "default": "many"}}, "generic", "a default is invalid: x"),
    ],
)
def test_a_mistake_in_the_declaration_is_named(inputs: Any, family: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        DeclaredSchema(endpoint(inputs, family))


def test_inputs_of_an_entry_with_another_schema_are_refused() -> None:
    entry = {
        "family": "generic",
        "schema": "flux-text-to-image",
        "weights": {"directory": "/x"},
        "options": {"inputs": {"prompt": PROMPT}},
    }
    builder = EntryBuilder(demo=False, demo_dir=Path("/"))
    with pytest.raises(InvalidInput, match="belongs to the schema `declared`"):
        build_stored(builder, StoredEntry("house/x", entry), strict=True)


def endpoint_with(result: Any, **inputs: Any) -> Endpoint:
    options = {"inputs": {"image_url": {"type": "image"}, **inputs}, "result": result}
    return Endpoint("house/x", "generic", Weights("/x"), "declared", options=options)


def with_result(result: Any, **inputs: Any) -> DeclaredSchema:
    return DeclaredSchema(endpoint_with(result, **inputs))


def types_of(inputs: DeclaredSchema, **body: Any) -> list[str]:
    checked, _ = inputs.validate({"image_url": URL, **body})
    return [media_type.removeprefix("image/") for media_type in inputs.media_types(checked)]


def test_each_layer_is_a_file_of_a_format_with_transparency() -> None:
    declared = with_result({"type": "layers"}, num_layers={"type": "layers", "default": 4})
    assert types_of(declared) == ["png"] * 4
    assert types_of(declared, num_layers=3, seeds=[1, 2], output_format="webp") == ["webp"] * 6
    for body in ({"num_layers": 11}, {"output_format": "jpeg"}):
        with pytest.raises(InvalidInput, match=next(iter(body))):
            types_of(declared, **body)


def test_a_mesh_is_one_file_of_its_own_type() -> None:
    declared = with_result({"type": "mesh"})
    assert {"model_mesh", "seed", "timings"} <= {*declared.output_schema()["required"]}
    assert declared.media_types({}) == ("model/gltf-binary",)
    assert not {"seeds", "output_format"} & declared.fields


def test_a_depth_map_has_a_lossless_file_beside_its_image() -> None:
    declared = with_result({"type": "depth"})
    assert types_of(declared, output_format="jpeg", seeds=[1, 2]) == ["jpeg", "png"] * 2
    output = declared.output_schema()
    assert {"image", "depth_map", "seed", "timings"} <= {*output["required"]}
    assert {"images", "depth_maps"} <= output["properties"].keys()


def test_the_maps_that_the_entry_names_are_fields_of_the_output() -> None:
    declared = with_result({"type": "intrinsics", "fields": ["albedo", "shading"]})
    assert types_of(declared) == ["png"] * 2
    assert {"albedo", "shading", "shadings"} <= declared.output_schema()["properties"].keys()


@pytest.mark.parametrize(
    ("result", "inputs"),
    [
        ({"type": "depth"}, {}),
        ({"type": "normals"}, {}),
        ({"type": "intrinsics", "fields": ["albedo", "shading", "residual"]}, {}),
        ({"type": "layers"}, {"layers": {"type": "layers", "default": 3}}),
    ],
)
def test_as_many_images_are_expected_as_are_billed(result: Any, inputs: Any) -> None:
    endpoint = endpoint_with(result, **inputs)
    checked, _ = DeclaredSchema(endpoint).validate({"image_url": URL, "seeds": [1, 2]})
    files = DeclaredSchema(endpoint).media_types(checked)
    expected = expected_quantities(endpoint, checked)
    assert expected.images == len(files)


def test_several_seeds_have_a_file_each_where_an_input_has_no_number_of_images() -> None:
    declared = schema()
    checked, _ = declared.validate({"prompt": "x", "seeds": [1, 2, 3]})
    assert declared.media_types(checked) == ("image/png",) * 3


@pytest.mark.parametrize(
    ("result", "inputs", "words"),
    [
        ("depth", {}, "options.result"),
        ({"type": "depths"}, {}, "options.result.type"),
        ({"type": "intrinsics"}, {}, "set `fields` for intrinsics"),
        ({"type": "depth", "fields": ["a"]}, {}, "for nothing else"),
        ({"type": "intrinsics", "fields": ["seed"]}, {}, "'seed' cannot be the name"),
        ({"type": "intrinsics", "fields": ["a", "a"]}, {}, "twice"),
        ({"type": "layers"}, {}, "go together"),
        ({"type": "depth"}, {"layers": {"type": "layers"}}, "go together"),
        ({"type": "depth"}, {"n": {"type": "count"}}, "no input has the type"),
    ],
)
def test_a_result_that_fits_nothing_is_refused(result: Any, inputs: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        with_result(result, **inputs)


CONDITIONS = {
    "type": "objects",
    "fields": {
        "image_url": {"type": "image", "argument": "image"},
        "video_url": {"type": "video", "argument": "video"},
        "frame_index": {"type": "integer", "default": 0},
        "strength": {"type": "number", "least": 0, "most": 1, "default": 1.0},
    },
    "one_of": ["image_url", "video_url"],
}


def test_objects_have_their_fields_with_defaults() -> None:
    declared = schema("video", conditions=CONDITIONS)
    body = {"prompt": "x", "conditions": [{"image_url": URL}, {"video_url": URL, "frame_index": 8}]}
    assert declared.validate(body)[0]["conditions"] == [
        {"image_url": URL, "video_url": None, "frame_index": 0, "strength": 1.0},
        {"image_url": None, "video_url": URL, "frame_index": 8, "strength": 1.0},
    ]
    assert declared.validate({"prompt": "x"})[0]["conditions"] is None
    stated = declared.json_schema()["$defs"]["Condition"]["properties"]
    assert [*stated] == ["image_url", "video_url", "frame_index", "strength"]


@pytest.mark.parametrize(
    ("item", "field", "type_"),
    [
        ({}, "image_url", "missing"),
        ({"image_url": URL, "video_url": URL}, "video_url", "one_of"),
        ({"image_url": "cat.png"}, "image_url", "url_scheme"),
        ({"image_url": URL, "strength": 2}, "strength", "less_than_equal"),
        ({"image_url": URL, "frame_index": "a"}, "frame_index", "int_parsing"),
        ({"image_url": URL, "frame_idx": 2}, "frame_idx", "extra_forbidden"),
    ],
)
def test_a_wrong_object_is_refused_with_its_field(
    item: Mapping[str, Any], field: str, type_: str
) -> None:
    body = {"prompt": "x", "conditions": [{"image_url": URL}, item]}
    with pytest.raises(InvalidInput, match=rf"^conditions\.1\.{field}: ") as error:
        schema("video", conditions=CONDITIONS).validate(body)
    (problem,) = error.value.problems
    assert (problem.loc, problem.type) == (("body", "conditions", 1, field), type_)
    assert problem.value == (None if type_ == "missing" else item[field])


def test_a_refused_field_of_an_object_is_refused_with_its_place() -> None:
    depth = {"type": "text", "default": "rgb", "refused": "no", "granted": ["rgb"]}
    inner: dict[str, Any] = {"image_url": {"type": "image", "required": True}, "kind": depth}
    declared = schema("video", items={"type": "objects", "fields": inner})
    assert declared.validate({"prompt": "x", "items": [{"image_url": URL}]})[0]["items"]
    with pytest.raises(InvalidInput, match=r"^items\.0\.kind: Not supported here: no"):
        declared.validate({"prompt": "x", "items": [{"image_url": URL, "kind": "depth"}]})


@pytest.mark.parametrize(
    ("declared", "words"),
    [
        ({"type": "objects"}, "`fields` belong to objects"),
        ({"type": "text", "fields": {"a": {"type": "text"}}}, "`fields` belong to objects"),
        ({"type": "objects", "fields": {"a": {"type": "images"}}}, "fields.a. is of the type"),
        ({"type": "objects", "fields": {"a b": {"type": "text"}}}, "'a b', which cannot"),
        (
            {"type": "objects", "fields": {"a": {"type": "text"}}, "one_of": ["b"]},
            "`one_of` names b",
        ),
    ],
)
def test_objects_that_cannot_be_are_mistakes_of_the_entry(
    declared: Mapping[str, Any], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        schema(field=declared)


MESSAGES = {
    "type": "objects",
    "fields": {"content": {"type": "text", "required": True}},
    "instead_of": ["prompt", "image_url"],
}


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "prompt"),
        ({"image_url": URL}, "prompt"),
        ({"messages": []}, "prompt"),
        ({"prompt": "a", "messages": [{"content": "a"}]}, "prompt"),
        ({"image_url": URL, "messages": [{"content": "a"}]}, "image_url"),
        ({"prompt": ""}, ""),
        ({"messages": [{"content": "a"}]}, ""),
    ],
)
def test_a_field_stands_in_place_of_others_or_the_first_of_them_is_needed(
    body: Mapping[str, Any], field: str
) -> None:
    text = schema(prompt={"type": "text"}, image_url={"type": "image"}, messages=MESSAGES)
    if not field:
        text.validate(body)
        return
    with pytest.raises(InvalidInput) as refused:
        text.validate(body)
    assert refused.value.problems[0].loc == ("body", field)


def test_a_text_has_a_seed_and_makes_no_files_and_no_drafts() -> None:
    options = {"inputs": {"prompt": PROMPT}, "result": {"type": "text"}}
    text = DeclaredSchema(
        Endpoint("house/x", "generic", Weights("/x"), "declared", options=options)
    )
    assert [*text.json_schema()["properties"]] == ["prompt", "seed"]
    assert {"output", "seed", "timings"} <= text.output_schema()["properties"].keys()
    assert text.media_types(text.validate({"prompt": "a"})[0]) == ()
    with pytest.raises(InvalidInput, match="makes no drafts"):
        text.validate({"prompt": "a", "draft": {"count": 1}})


def test_a_field_in_place_of_one_that_every_request_has_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="`instead_of` of messages names prompt"):
        schema(messages=MESSAGES)


def test_without_a_bound_a_size_has_as_many_megapixels_as_those_of_built_in_models() -> None:
    sized = {"prompt": PROMPT, "image_size": {"type": "size"}}
    large = {"prompt": "x", "image_size": {"width": 14142, "height": 14142}}
    usual = {"prompt": "x", "image_size": {"width": 2048, "height": 2048}}
    with pytest.raises(InvalidInput, match=r"200\.0 megapixels; this installation allows 4\.2"):
        DeclaredSchema(endpoint(sized)).validate(large)
    assert DeclaredSchema(endpoint(sized)).validate(usual)
    assert DeclaredSchema(endpoint(sized, bounds={"megapixels": (0, 200)})).validate(large)
