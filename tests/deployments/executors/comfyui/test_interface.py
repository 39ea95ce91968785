"""What an endpoint of a ComfyUI workflow takes and gives, and which workflows are refused."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import pytest

from deployments.executors.comfyui.interface import Interface, interface
from deployments.executors.comfyui.workflow import job
from serve_app.domain.errors import Misconfigured

CLASSES: Mapping[str, Any] = {
    "CheckpointLoaderSimple": {
        "input": {"required": {"ckpt_name": [["base.safetensors", "other.safetensors"]]}}
    },
    "CLIPTextEncode": {
        "input": {"required": {"text": ["STRING", {"multiline": True}], "clip": ["CLIP"]}}
    },
    "EmptyLatentImage": {
        "input": {
            "required": {
                "width": ["INT", {"min": 16, "max": 16384}],
                "height": ["INT", {"min": 16, "max": 16384}],
                "batch_size": ["INT", {"min": 1, "max": 4096}],
            }
        }
    },
    "KSampler": {
        "input": {
            "required": {
                "model": ["MODEL"],
                "seed": ["INT", {"min": 0, "max": 2**64 - 1}],
                "steps": ["INT", {"min": 1, "max": 10000, "tooltip": "Number of steps."}],
                "cfg": ["FLOAT", {"min": 0.0, "max": 100.0}],
                "sampler_name": [["euler", "heun"]],
                "positive": ["CONDITIONING"],
                "negative": ["CONDITIONING"],
                "latent_image": ["LATENT"],
            }
        }
    },
    "LoadImage": {"input": {"required": {"image": [[], {"image_upload": True}]}}},
    "LoadImageMask": {
        "input": {
            "required": {
                "image": [[], {"image_upload": True}],
                "channel": ["COMBO", {"options": ["red", "alpha"]}],
            }
        }
    },
    "SaveImage": {
        "input": {"required": {"images": ["IMAGE"], "filename_prefix": ["STRING", {}]}},
        "output_node": True,
    },
    "SaveVideo": {
        "input": {"required": {"video": ["VIDEO"], "filename_prefix": ["STRING", {}]}},
        "output_node": True,
    },
}
TEXT_TO_IMAGE: dict[str, Any] = {
    "3": {
        "class_type": "KSampler",
        "inputs": {
            "model": ["4", 0],
            "seed": 5,
            "steps": 20,
            "cfg": 7.5,
            "sampler_name": "euler",
            "positive": ["6", 0],
            "negative": ["7", 0],
            "latent_image": ["5", 0],
        },
    },
    "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "base.safetensors"}},
    "5": {
        "class_type": "EmptyLatentImage",
        "inputs": {"width": 512, "height": 768, "batch_size": 1},
    },
    "6": {"class_type": "CLIPTextEncode", "inputs": {"text": "a cat", "clip": ["4", 1]}},
    "7": {
        "class_type": "CLIPTextEncode",
        "inputs": {"text": "blurry", "clip": ["4", 1]},
        "_meta": {"title": "What not to draw"},
    },
    "9": {"class_type": "SaveImage", "inputs": {"images": ["3", 0], "filename_prefix": "x"}},
}


def read_interface(
    graph: Mapping[str, Any], outputs: tuple[str, ...] = (), **named: str
) -> Interface:
    return interface(graph, CLASSES, named, outputs)


def refusal(graph: Mapping[str, Any], outputs: tuple[str, ...] = (), **named: str) -> str:
    with pytest.raises(Misconfigured) as refused:
        read_interface(graph, outputs, **named)
    return refused.value.message


def change_node(node: str, **inputs: Any) -> dict[str, Any]:
    graph = deepcopy(TEXT_TO_IMAGE)
    graph[node]["inputs"] |= inputs
    return graph


def test_what_users_want_to_give_has_fal_s_names() -> None:
    properties = read_interface(TEXT_TO_IMAGE).input_schema["properties"]
    assert {name: field.get("default") for name, field in properties.items()} == {
        "seed": None,  # drawn for each request
        "num_inference_steps": 20,
        "guidance_scale": 7.5,
        "width": 512,
        "height": 768,
        "num_images": 1,
        "prompt": "a cat",
        "negative_prompt": "blurry",
    }
    assert properties["num_inference_steps"] == {
        "title": "Num inference steps",
        "description": "Number of steps.",
        "type": "integer",
        "minimum": 1,
        "maximum": 10000,
        "default": 20,
    }


def test_two_values_of_one_name_are_told_apart_by_their_nodes() -> None:
    graph = deepcopy(TEXT_TO_IMAGE)
    graph["8"] = {"class_type": "CLIPTextEncode", "inputs": {"text": "more", "clip": ["4", 1]}}
    properties = read_interface(graph).input_schema["properties"]
    assert {"prompt_6", "prompt_8", "negative_prompt"} <= properties.keys()


def test_files_are_required_and_say_what_they_are() -> None:
    graph = deepcopy(TEXT_TO_IMAGE)
    graph["1"] = {"class_type": "LoadImage", "inputs": {"image": "mine.png"}}
    graph["2"] = {
        "class_type": "LoadImageMask",
        "inputs": {"image": "mask.png", "channel": "red"},
    }
    schema = read_interface(graph).input_schema
    assert schema["required"] == ["image_url", "mask_url"]
    assert schema["properties"]["image_url"]["x-darkroom-file"] == "image"


def test_named_inputs_are_the_only_ones() -> None:
    schema = read_interface(TEXT_TO_IMAGE, text="6.text", sampler="3.sampler_name").input_schema
    assert schema["properties"].keys() == {"text", "sampler"}
    assert schema["properties"]["sampler"]["enum"] == ["euler", "heun"]
    assert schema["additionalProperties"] is False


def test_outputs_say_which_files_come() -> None:
    graph = deepcopy(TEXT_TO_IMAGE)
    graph["10"] = {"class_type": "SaveVideo", "inputs": {"video": ["3", 0], "filename_prefix": ""}}
    assert read_interface(graph).output_schema["properties"].keys() == {"images", "videos", "seeds"}
    assert read_interface(graph, ("10",)).output_schema["properties"].keys() == {"videos", "seeds"}


@pytest.mark.parametrize(
    ("node", "inputs", "message"),
    [
        (
            "4",
            {"ckpt_name": "mine.safetensors"},
            (
                "Node 4 (CheckpointLoaderSimple): this ComfyUI has no ckpt_name "
                "'mine.safetensors'. It has: base.safetensors, other.safetensors."
            ),
        ),
        (
            "7",
            {"clip": ["44", 0]},
            (
                "Node 7 (CLIPTextEncode, “What not to draw”): `clip` refers to node 44, which is "
                "not there."
            ),
        ),
    ],
)
def test_a_mistake_is_named_with_its_node(node: str, inputs: dict[str, Any], message: str) -> None:
    assert refusal(change_node(node, **inputs)) == message


def test_a_node_that_comfyui_does_not_have_is_refused() -> None:
    graph = deepcopy(TEXT_TO_IMAGE)
    graph["6"]["class_type"] = "FancyPrompt"
    assert refusal(graph).startswith("Node 6 (FancyPrompt): this ComfyUI has no such class")


def test_a_missing_value_is_named() -> None:
    graph = deepcopy(TEXT_TO_IMAGE)
    del graph["3"]["inputs"]["steps"]
    assert refusal(graph) == "Node 3 (KSampler): the value `steps` is missing."


def test_a_workflow_that_saves_nothing_is_refused() -> None:
    graph = deepcopy(TEXT_TO_IMAGE)
    del graph["9"]
    assert refusal(graph).startswith("The workflow saves nothing")


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("66.text", "Input text: the workflow has no node 66."),
        (
            "6.words",
            "Input text: Node 6 (CLIPTextEncode) has no value `words`. It has: text, clip.",
        ),
        (
            "6.clip",
            (
                "Input text: `clip` of Node 6 (CLIPTextEncode) comes from another node, so no "
                "request can give it."
            ),
        ),
    ],
)
def test_an_input_that_cannot_be_set_is_refused(place: str, message: str) -> None:
    assert refusal(TEXT_TO_IMAGE, text=place) == message


def test_an_output_that_saves_nothing_is_refused() -> None:
    assert refusal(TEXT_TO_IMAGE, ("3",)) == "Node 3 (KSampler) saves nothing, so it has no output."
    assert "no node 33" in refusal(TEXT_TO_IMAGE, ("33",))


def test_values_of_a_request_are_set_and_files_have_a_name_of_their_own() -> None:
    workflow = read_interface(TEXT_TO_IMAGE).workflow
    comfy_job = job(workflow, {"prompt": "a dog", "seed": 9}, "request-1")
    assert comfy_job.graph["6"]["inputs"]["text"] == "a dog"
    assert comfy_job.graph["3"]["inputs"]["seed"] == 9
    assert comfy_job.graph["9"]["inputs"]["filename_prefix"] == "darkroom/request-1/9"
    assert TEXT_TO_IMAGE["6"]["inputs"]["text"] == "a cat"  # the endpoint's stays as it is
    assert job(workflow, {}, "request-1").id == comfy_job.id != job(workflow, {}, "request-2").id
