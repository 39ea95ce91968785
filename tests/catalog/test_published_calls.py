"""The call that each entry makes by default, and that of its weights' authors.

Where the two differ, the entry has another default, nearly always that of fal, and stands in
``OURS`` with it. A difference that nobody meant fails, and so does an exception that is none.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatch
from functools import cache
from typing import Any

import pytest

from deployments.families.base import load_families
from deployments.families.options import prepared_call, required_files
from deployments.families.registry import FAMILIES
from deployments.families.warm_up import plain_files
from serve_app.catalog.catalog import Catalog
from tests.catalog.test_published_examples import PIPELINES, example_of
from tests.engine.conformance.zoo import cases

pytestmark = [
    pytest.mark.engine,
    # diffusers, torch and transformers deprecate names of their own while tiny pipelines are made.
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning"),
]

CLASS = "the example and the defaults of the pipeline's class in diffusers"
DEFAULTS = "the defaults of the pipeline's class, whose example passes none of them"


@dataclass(frozen=True, slots=True)
class Published:
    """Arguments of the authors' example. ``source``: where it stands."""

    source: str
    arguments: Mapping[str, Any]
    attributes: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Of the pipeline with these weights, where the sizes of a call follow from them."""


def _of_wan22(source: str, **arguments: Any) -> Published:
    return Published(source, {"num_frames": 81, "num_inference_steps": 40, **arguments})


FLUX_DEV = Published(
    "diffusers' documentation of Flux, of FLUX.1 [dev]",
    {
        "width": 1360,
        "height": 768,
        "num_inference_steps": 50,
        "guidance_scale": 3.5,
        "max_sequence_length": 512,
    },
)
SDXL_LIGHTNING = Published(
    "the card of ByteDance/SDXL-Lightning", {"num_inference_steps": 4, "guidance_scale": 0.0}
)
TURBO = Published(
    "the documentation of Wan2.2-Lightning",
    {"num_inference_steps": 4, "guidance_scale": 1.0, "guidance_scale_2": 1.0},
)
WAN22_5B = {"vae_scale_factor_spatial": 16}

PUBLISHED: Mapping[str, Published] = {
    "fal-ai/flux/schnell": Published(
        "diffusers' documentation of Flux, of FLUX.1 [schnell]",
        {
            "width": 1360,
            "height": 768,
            "num_inference_steps": 4,
            "guidance_scale": 0.0,
            "max_sequence_length": 256,
        },
    ),
    "fal-ai/flux/dev": FLUX_DEV,
    "fal-ai/flux-lora": FLUX_DEV,
    "fal-ai/flux/dev/image-to-image": Published(
        "the defaults of the pipeline's class, whose example is of FLUX.1 [schnell]",
        {
            "num_inference_steps": 28,
            "guidance_scale": 7.0,
            "strength": 0.6,
            "max_sequence_length": 512,
        },
    ),
    "fal-ai/fast-sdxl": Published(DEFAULTS, {"num_inference_steps": 50, "guidance_scale": 5.0}),
    "fal-ai/fast-sdxl/image-to-image": Published(
        DEFAULTS, {"num_inference_steps": 50, "guidance_scale": 5.0, "strength": 0.3}
    ),
    "fal-ai/fast-sdxl/inpainting": Published(
        CLASS, {"num_inference_steps": 50, "guidance_scale": 7.5, "strength": 0.8}
    ),
    "fal-ai/fast-lcm-diffusion": Published(
        "the card of latent-consistency/lcm-lora-sdxl",
        {"num_inference_steps": 4, "guidance_scale": 0.0},
    ),
    "fal-ai/fast-lightning-sdxl": SDXL_LIGHTNING,
    "fal-ai/fast-lightning-sdxl/image-to-image": SDXL_LIGHTNING,
    "fal-ai/fast-lightning-sdxl/inpainting": SDXL_LIGHTNING,
    "fal-ai/z-image/turbo": Published(
        CLASS,
        {
            "width": 1024,
            "height": 1024,
            "num_inference_steps": 8,
            "guidance_scale": 0.0,
            "max_sequence_length": 512,
        },
    ),
    "fal-ai/qwen-image": Published(
        CLASS, {"num_inference_steps": 50, "true_cfg_scale": 4.0, "max_sequence_length": 512}
    ),
    "darkroom/qwen-image-lightning": Published(
        "diffusers' documentation of Qwen-Image, of Qwen-Image-Lightning",
        {"width": 1024, "height": 1024, "num_inference_steps": 8, "true_cfg_scale": 1.0},
    ),
    "fal-ai/flux-2/klein/realtime": Published(
        "the card of black-forest-labs/FLUX.2-klein-4B",
        {
            "width": 1024,
            "height": 1024,
            "num_inference_steps": 4,
            "guidance_scale": 1.0,
            "max_sequence_length": 512,
        },
    ),
    "fal-ai/wan-t2v": Published(
        CLASS,
        {
            "width": 1280,
            "height": 720,
            "num_frames": 81,
            "num_inference_steps": 50,
            "guidance_scale": 5.0,
            "max_sequence_length": 512,
        },
    ),
    "fal-ai/wan-i2v": Published(
        CLASS,
        {
            "num_frames": 81,
            "num_inference_steps": 50,
            "guidance_scale": 5.0,
            "max_sequence_length": 512,
        },
    ),
    "fal-ai/wan/v2.2-5b/text-to-video": Published(
        "the card of Wan-AI/Wan2.2-TI2V-5B-Diffusers",
        {
            "width": 1280,
            "height": 704,
            "num_frames": 121,
            "num_inference_steps": 50,
            "guidance_scale": 5.0,
        },
        WAN22_5B,
    ),
    "fal-ai/wan/v2.2-5b/image-to-video": Published(
        "the card of Wan-AI/Wan2.2-TI2V-5B-Diffusers",
        {"num_frames": 121, "num_inference_steps": 50, "guidance_scale": 5.0},
        WAN22_5B,
    ),
    "fal-ai/wan/v2.2-a14b/text-to-video": _of_wan22(
        "the card of Wan-AI/Wan2.2-T2V-A14B-Diffusers",
        width=1280,
        height=720,
        guidance_scale=4.0,
        guidance_scale_2=3.0,
    ),
    "fal-ai/wan/v2.2-a14b/image-to-video": _of_wan22(
        "the card of Wan-AI/Wan2.2-I2V-A14B-Diffusers, which passes no second guidance scale: the "
        "first one is for both",
        guidance_scale=3.5,
        guidance_scale_2=3.5,
    ),
    "fal-ai/wan/v2.2-a14b/text-to-video/turbo": TURBO,
    "fal-ai/wan/v2.2-a14b/image-to-video/turbo": TURBO,
    "fal-ai/ltx-video": Published(
        CLASS,
        {
            "width": 704,
            "height": 480,
            "num_frames": 161,
            "num_inference_steps": 50,
            "guidance_scale": 3,
            "frame_rate": 25,
            "max_sequence_length": 128,
        },
    ),
    "fal-ai/ltx-video/image-to-video": Published(
        CLASS,
        {
            "num_frames": 161,
            "num_inference_steps": 50,
            "guidance_scale": 3,
            "frame_rate": 25,
            "max_sequence_length": 128,
        },
    ),
    "fal-ai/ltx-2/text-to-video": Published(
        CLASS,
        {
            "width": 768,
            "height": 512,
            "num_frames": 121,
            "num_inference_steps": 30,
            "guidance_scale": 3.0,
            "frame_rate": 24.0,
            "max_sequence_length": 1024,
        },
        {"vae_temporal_compression_ratio": 8},
    ),
    "fal-ai/hunyuan-video": Published(
        CLASS,
        {
            "width": 512,
            "height": 320,
            "num_frames": 61,
            "num_inference_steps": 30,
            "guidance_scale": 6.0,
            "true_cfg_scale": 1.0,
            "max_sequence_length": 256,
        },
    ),
    "fal-ai/hunyuan-video-image-to-video": Published(
        CLASS,
        {
            "width": 1280,
            "height": 720,
            "num_frames": 129,
            "num_inference_steps": 50,
            "guidance_scale": 6.0,
            "true_cfg_scale": 1.0,
            "max_sequence_length": 256,
        },
    ),
    "fal-ai/stable-audio": Published(
        CLASS, {"num_inference_steps": 200, "audio_end_in_s": 10.0, "guidance_scale": 7.0}
    ),
    "fal-ai/ace-step": Published(
        CLASS, {"num_inference_steps": 8, "audio_duration": 30.0, "guidance_scale": 7.0}
    ),
}

OURS: Mapping[str, Mapping[str, Any]] = {
    # The weights have no layer for guidance, so the value has no effect.
    "fal-ai/flux/schnell": {"width": 1024, "guidance_scale": 3.5},
    "fal-ai/flux/dev": {"width": 1024, "num_inference_steps": 28},
    "fal-ai/flux-lora": {"width": 1024, "num_inference_steps": 28},
    "fal-ai/flux/dev/image-to-image": {
        "num_inference_steps": 40,
        "guidance_scale": 3.5,
        "strength": 0.95,
    },
    "fal-ai/fast-sdxl": {"num_inference_steps": 25, "guidance_scale": 7.5},
    "fal-ai/fast-sdxl/image-to-image": {
        "num_inference_steps": 25,
        "guidance_scale": 7.5,
        "strength": 0.95,
    },
    "fal-ai/fast-sdxl/inpainting": {"num_inference_steps": 25, "strength": 0.95},
    "fal-ai/fast-lcm-diffusion": {"num_inference_steps": 6, "guidance_scale": 1.5},
    "fal-ai/z-image/turbo": {"height": 768},
    "fal-ai/qwen-image": {"num_inference_steps": 30, "true_cfg_scale": 2.5},
    "darkroom/qwen-image-lightning": {"height": 768},
    "fal-ai/flux-2/klein/realtime": {"width": 512, "height": 512, "num_inference_steps": 3},
    "fal-ai/wan-t2v": {"num_inference_steps": 30},
    "fal-ai/wan-i2v": {"num_inference_steps": 30},
    "fal-ai/wan/v2.2-5b/*": {"num_frames": 81, "num_inference_steps": 40, "guidance_scale": 3.5},
    "fal-ai/wan/v2.2-a14b/text-to-video": {
        "num_inference_steps": 27,
        "guidance_scale": 3.5,
        "guidance_scale_2": 4.0,
    },
    "fal-ai/wan/v2.2-a14b/image-to-video": {"num_inference_steps": 27},
    "fal-ai/ltx-video": {
        "width": 768,
        "height": 512,
        "num_frames": 121,
        "num_inference_steps": 30,
    },
    "fal-ai/ltx-video/image-to-video": {"num_frames": 121, "num_inference_steps": 30},
    "fal-ai/ltx-2/text-to-video": {
        "width": 1920,
        "height": 1088,
        "num_frames": 153,
        "num_inference_steps": 40,
        "frame_rate": 25.0,
    },
    "fal-ai/hunyuan-video": {"width": 1280, "height": 720, "num_frames": 129},
    "fal-ai/stable-audio": {"num_inference_steps": 100, "audio_end_in_s": 30.0},
    # The pipeline ignores guidance for turbo weights, which these are.
    "fal-ai/ace-step": {
        "num_inference_steps": 27,
        "audio_duration": 60.0,
        "guidance_scale": 15.0,
    },
}
"""Values by which an entry differs; fal's defaults, where nothing else is said. Its usual size is
1024 × 768."""


@cache
def tiny(pipeline: str) -> Any:
    """Pipeline of the class, with the limits of real weights where a call depends on them."""
    built = cases()[pipeline].build()
    if hasattr(built, "vae_scale_factor"):
        built.vae_scale_factor = 8
    if hasattr(built, "tokenizer_2"):
        built.tokenizer_2.model_max_length = 512
    if pipeline == "StableAudioPipeline":
        built.transformer.register_to_config(sample_size=1024)
        built.vae.register_to_config(sampling_rate=44100)
        built.vae.hop_length = 2048
    return built


def call_of(catalog: Catalog, name: str) -> Mapping[str, Any]:
    """What the entry passes by default, over the defaults of its class."""
    entry, attributes = catalog.get_listed(name), PUBLISHED[name].attributes
    # One with attributes of its own is not shared.
    pipeline = (tiny.__wrapped__ if attributes else tiny)(PIPELINES[name])
    for attribute, value in attributes.items():
        setattr(pipeline, attribute, value)
    files = required_files(entry.endpoint)
    inputs = {"prompt": "a lighthouse", "tags": "piano", "lyrics": "la"}
    inputs |= dict.fromkeys(files, "https://example.com/file.png")
    known = entry.schema.json_schema()["properties"]
    validated, _ = entry.schema.validate({k: v for k, v in inputs.items() if k in known}, None)
    validated = {**validated, **plain_files(entry.endpoint)}
    family = load_families({entry.endpoint.family: FAMILIES[entry.endpoint.family]})
    call = prepared_call(family[entry.endpoint.family], entry.endpoint, validated, pipeline, 0)
    parameters = inspect.signature(type(call.view or pipeline).__call__).parameters
    return {parameter.name: parameter.default for parameter in parameters.values()} | dict(
        call.arguments
    )


def test_each_entry_with_a_pipeline_has_a_published_call() -> None:
    assert PUBLISHED.keys() == PIPELINES.keys()


@pytest.mark.variants(10)
@pytest.mark.parametrize("name", PUBLISHED)
def test_an_entry_calls_its_pipeline_as_the_authors_do_but_for_known_exceptions(
    catalog: Catalog, name: str
) -> None:
    published, called = PUBLISHED[name].arguments, call_of(catalog, name)
    differing = {
        argument: called[argument]
        for argument in published
        if called[argument] != published[argument]
    }
    excepted = next((changes for pattern, changes in OURS.items() if fnmatch(name, pattern)), {})
    assert differing == excepted


@pytest.mark.parametrize(
    "name", [name for name, call in PUBLISHED.items() if call.source in (CLASS, DEFAULTS)]
)
def test_what_is_published_with_the_class_is_still_what_it_says(name: str) -> None:
    """A new version of diffusers may have another example."""
    kind = type(tiny(PIPELINES[name]))
    defaults = {
        n: parameter.default for n, parameter in inspect.signature(kind.__call__).parameters.items()
    }
    says = defaults | example_of(PIPELINES[name]).arguments
    written = PUBLISHED[name].arguments
    assert {argument: says[argument] for argument in written} == dict(written)
