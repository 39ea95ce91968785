"""Entries are loaded and called as their authors' examples do, which come with diffusers."""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from inspect import signature
from typing import Any

import pytest

from deployments.families.image_io import own_dtypes
from serve_app.catalog.catalog import Catalog

PIPELINES = {
    "fal-ai/flux/schnell": "FluxPipeline",
    "fal-ai/flux/dev": "FluxPipeline",
    "fal-ai/flux/dev/image-to-image": "FluxImg2ImgPipeline",
    "fal-ai/flux-lora": "FluxPipeline",
    "fal-ai/fast-sdxl": "StableDiffusionXLPipeline",
    "fal-ai/fast-sdxl/image-to-image": "StableDiffusionXLImg2ImgPipeline",
    "fal-ai/fast-sdxl/inpainting": "StableDiffusionXLInpaintPipeline",
    "fal-ai/fast-lcm-diffusion": "StableDiffusionXLPipeline",
    "fal-ai/fast-lightning-sdxl": "StableDiffusionXLPipeline",
    "fal-ai/fast-lightning-sdxl/image-to-image": "StableDiffusionXLImg2ImgPipeline",
    "fal-ai/fast-lightning-sdxl/inpainting": "StableDiffusionXLInpaintPipeline",
    "fal-ai/z-image/turbo": "ZImagePipeline",
    "fal-ai/qwen-image": "QwenImagePipeline",
    "darkroom/qwen-image-lightning": "QwenImagePipeline",
    "fal-ai/flux-2/klein/realtime": "Flux2KleinPipeline",
    "fal-ai/wan-t2v": "WanPipeline",
    "fal-ai/wan-i2v": "WanImageToVideoPipeline",
    "fal-ai/wan/v2.2-5b/text-to-video": "WanPipeline",
    "fal-ai/wan/v2.2-5b/image-to-video": "WanImageToVideoPipeline",
    "fal-ai/wan/v2.2-a14b/text-to-video": "WanPipeline",
    "fal-ai/wan/v2.2-a14b/image-to-video": "WanImageToVideoPipeline",
    "fal-ai/wan/v2.2-a14b/text-to-video/turbo": "WanPipeline",
    "fal-ai/wan/v2.2-a14b/image-to-video/turbo": "WanImageToVideoPipeline",
    "fal-ai/ltx-video": "LTXPipeline",
    "fal-ai/ltx-video/image-to-video": "LTXImageToVideoPipeline",
    "fal-ai/ltx-2/text-to-video": "LTX2Pipeline",
    "fal-ai/hunyuan-video": "HunyuanVideoPipeline",
    "fal-ai/hunyuan-video-image-to-video": "HunyuanVideoImageToVideoPipeline",
    "fal-ai/stable-audio": "StableAudioPipeline",
    "fal-ai/ace-step": "AceStepPipeline",
}

ABSENT = {
    "fal-ai/wan/v2.2-5b/image-to-video": {"image_encoder", "transformer_2"},
    "fal-ai/wan/v2.2-a14b/image-to-video": {"image_encoder"},
    "fal-ai/wan/v2.2-a14b/image-to-video/turbo": {"image_encoder"},
}
"""Components that the pipeline's class may have, and these weights do not."""

LIGHTNING = {"num_inference_steps": 4, "guidance_scale": 1.0, "guidance_scale_2": 1.0}
OTHERWISE = {
    # By the documentation of SDXL-Lightning.
    "fal-ai/fast-lightning-sdxl": {"guidance_scale": 0.0},
    "fal-ai/fast-lightning-sdxl/image-to-image": {"guidance_scale": 0.0},
    "fal-ai/fast-lightning-sdxl/inpainting": {"guidance_scale": 0.0},
    # By the documentation of Qwen-Image-Lightning.
    "darkroom/qwen-image-lightning": {"true_cfg_scale": 1.0},
    # By the documentation of Wan2.2-Lightning.
    "fal-ai/wan/v2.2-a14b/text-to-video/turbo": LIGHTNING,
    "fal-ai/wan/v2.2-a14b/image-to-video/turbo": LIGHTNING,
    # By the documentation of these arguments; their defaults are for LTX-2.3.
    "fal-ai/ltx-2/text-to-video": {
        "spatio_temporal_guidance_blocks": [29],
        "use_cross_timestep": False,
    },
}
"""Values for these very weights, where the example is of others."""


@dataclass
class Example:
    """``dtypes`` by component and ``default``; ``arguments`` of the first call that are plain
    values."""

    dtypes: dict[str, str] = field(default_factory=dict)
    arguments: dict[str, Any] = field(default_factory=dict)


def _class(pipeline: str) -> Any:
    return getattr(importlib.import_module("diffusers"), pipeline)


def example_of(pipeline: str) -> Example:
    module = importlib.import_module(_class(pipeline).__module__)
    lines = re.findall(r"^ *(?:>>>|\.\.\.) ?(.*)$", module.EXAMPLE_DOC_STRING, re.MULTILINE)
    example = Example()
    components: dict[str, str] = {}
    for target, call in _calls(ast.parse("\n".join(lines))):
        arguments = {keyword.arg: keyword.value for keyword in call.keywords if keyword.arg}
        if isinstance(call.func, ast.Attribute) and call.func.attr == "from_pretrained":
            dtype = ast.unparse(arguments["torch_dtype"]).removeprefix("torch.")
            if "subfolder" in arguments:
                components[target] = dtype
            else:
                named = {name for name in arguments if name in components}
                example.dtypes = {name: components[name] for name in named} | {"default": dtype}
        elif isinstance(call.func, ast.Name) and call.func.id == "pipe" and not example.arguments:
            example.arguments = dict(_plain(arguments))
    return example


def _calls(tree: ast.Module) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign):
            for inner in ast.walk(node.value):
                if isinstance(inner, ast.Call):
                    yield ast.unparse(node.targets[0]), inner


def _plain(arguments: Mapping[str, ast.expr]) -> Iterator[tuple[str, Any]]:
    for name, value in arguments.items():
        try:
            yield name, ast.literal_eval(value)
        except ValueError:
            continue


def test_each_entry_has_an_example(catalog: Catalog) -> None:
    without = {entry.endpoint.id for entry in catalog} - PIPELINES.keys()
    # No diffusers pipeline, and one whose documentation has the example of another model.
    assert without == {"fal-ai/esrgan", "darkroom/sdxs"}


@pytest.mark.parametrize("name", PIPELINES)
def test_an_entry_is_loaded_in_the_types_of_its_authors_example(
    catalog: Catalog, name: str
) -> None:
    dtypes = example_of(PIPELINES[name]).dtypes
    loaded = own_dtypes(catalog.get(name).endpoint, "cuda", "unknown")
    modules = {*_class(PIPELINES[name]).model_cpu_offload_seq.split("->")} - ABSENT.get(name, set())
    assert loaded.keys() <= modules | {"default"}
    assert {module: loaded.get(module, loaded["default"]) for module in modules} == {
        module: dtypes.get(module, dtypes["default"]) for module in modules
    }


@pytest.mark.parametrize("name", PIPELINES)
def test_what_an_entry_fixes_is_what_its_authors_call_it_with(catalog: Catalog, name: str) -> None:
    kind = _class(PIPELINES[name])
    defaults = {
        parameter.name: parameter.default
        for parameter in signature(kind.__call__).parameters.values()
    }
    expected = defaults | example_of(PIPELINES[name]).arguments | OTHERWISE.get(name, {})
    for argument, value in catalog.get(name).endpoint.options.get("fixed", {}).items():
        assert expected[argument] == value, argument
