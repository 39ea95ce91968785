"""Warm-up: the first generation of loaded weights is no user's, for every family and task."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch._dynamo.utils import counters

from deployments.engine.engine import Engine
from deployments.engine.merging.compile import compile_regions
from deployments.families.base import WarmsUp, load_families
from deployments.families.registry import FAMILIES
from deployments.families.warm_up import short_call
from serve_app.domain.endpoint import Endpoint
from tests.deployments import videos
from tests.deployments.families.test_audio import CLASSES
from tests.deployments.families.test_listed_endpoints import (
    FLUX2,
    LCM,
    QWEN_IMAGE,
    Z_IMAGE,
    tiny_lcm,
)
from tests.deployments.families.test_media_input import AUDIO, VIDEO
from tests.deployments.served import CATALOG
from tests.engine.conformance import zoo
from tests.engine.gate import Gate, merging_engine
from tests.engine.tiny import tiny_flux, tiny_sdxl
from tests.engine.tiny_qwen import tiny_flux2_klein, tiny_qwen_image, tiny_z_image

pytestmark = [pytest.mark.engine, pytest.mark.filterwarnings("ignore")]

IMAGES = {
    "fal-ai/flux/schnell": tiny_flux,
    "fal-ai/flux/dev/image-to-image": tiny_flux,
    "fal-ai/fast-sdxl/inpainting": tiny_sdxl,
    LCM: tiny_lcm,
    Z_IMAGE: tiny_z_image,
    QWEN_IMAGE: tiny_qwen_image,
    FLUX2: tiny_flux2_klein,
}
AUDIOS = {name: zoo.cases()[title].build for name, title in CLASSES.items()}
LISTED = {**IMAGES, **videos.MAKE, **AUDIOS}


def small(endpoint_id: str) -> Endpoint:
    """Endpoint of the catalogue at a size for tiny models."""
    if endpoint_id in videos.MAKE:
        return videos.entry(endpoint_id).endpoint
    endpoint = CATALOG.get(endpoint_id).endpoint
    options = {"dtype": "float32", "native_size": 64, "max_sequence_length": 16}
    taken = {name: value for name, value in options.items() if endpoint_id in IMAGES}
    return replace(endpoint, options={**endpoint.options, **taken})


def warmed_up(endpoint: Endpoint, pipeline: Any) -> Any:
    family = load_families(FAMILIES)[endpoint.family]
    assert isinstance(family, WarmsUp)
    with Engine(pipeline, threads=1) as engine:
        return engine.submit(**short_call(family, endpoint, pipeline)).result(60)


@pytest.mark.variants(4)
@pytest.mark.parametrize("endpoint_id", LISTED)
def test_each_listed_endpoint_can_be_warmed_up(endpoint_id):
    assert warmed_up(small(endpoint_id), LISTED[endpoint_id]())


OWN = Endpoint("me/own", "generic", VIDEO.weights, "open")


@pytest.mark.parametrize(
    ("endpoint", "make"),
    [
        (
            replace(VIDEO, options={**VIDEO.options, "native_size": 64}),
            videos.MAKE[videos.WAN_T2V],
        ),
        (AUDIO, zoo.cases()["StableAudio3AudioToAudioPipeline"].build),
        (
            replace(OWN, options={"task": "image-to-image", "native_size": 64}),
            zoo.cases()["FluxImg2ImgPipeline"].build,
        ),
        (
            replace(
                OWN,
                options={
                    "task": "inpainting",
                    "native_size": 64,
                    "arguments": {"strength": "strength"},
                },
                defaults={"strength": 0.5},
            ),
            zoo.cases()["FluxInpaintPipeline"].build,
        ),
    ],
    ids=["video-to-video", "audio-to-audio", "image-to-image", "inpainting"],
)
def test_so_can_entries_of_one_s_own_whatever_they_begin_with(endpoint, make):
    assert warmed_up(endpoint, make())


@pytest.mark.long
def test_what_their_denoisers_repeat_is_compiled_by_it_and_no_more_is_later():
    """Traced but not compiled by Inductor, which takes minutes."""
    torch._dynamo.reset()
    counters.clear()
    # Over weights of another class, and with an input image.
    endpoint, pipeline = small(videos.SMALL_I2V), videos.MAKE[videos.SMALL_I2V]()
    make_call = partial(short_call, load_families(FAMILIES)[endpoint.family], endpoint, pipeline)
    compile_regions(pipeline, "eager")
    with merging_engine(threads=1) as engine:
        engine.precompile(pipeline, make_call)
        assert (before := counters["stats"]["unique_graphs"]) > 0
        engine.add("it", pipeline)
        gate = Gate(engine)
        two = [engine.submit(pipeline="it", **make_call()) for _ in range(2)]
        gate.open()
        assert all(generation.result(60) for generation in two)
        assert engine.counts()["merged_calls"] >= 2
    assert counters["stats"]["unique_graphs"] == before
