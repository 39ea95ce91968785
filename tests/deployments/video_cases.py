"""Cases for video endpoints, and fixtures that serve them over tiny pipelines of their weights'
classes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

from deployments.engine.engine import Engine
from deployments.engine.interception.pipeline import with_shift
from tests.deployments import videos
from tests.deployments.served import Served
from tests.deployments.videos import (
    HUNYUAN,
    LARGE_T2V,
    LTX2,
    LTX_T2V,
    MAKE,
    SHORT_TEXT,
    SMALL_T2V,
    WAN_T2V,
)

SMALL = {"video_format": {"width": 64, "height": 32, "num_frames": 9, "fps": 25}}
WIDE, SQUARE = {"width": 32, "height": 16}, {"width": 32, "height": 32}


@dataclass(frozen=True)
class Case:
    """A body, and the call that it becomes."""

    plain: dict[str, Any]  # pipeline arguments, beside the common ones
    others: dict[str, Any] = field(default_factory=dict)  # values that change the frames
    body: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    shift: float | None = None  # of the scheduler
    few: dict[str, Any] = field(default_factory=dict)  # faster than the schema's defaults


UNWANTED = {"negative_prompt": "a new hat"}
CASES = {
    WAN_T2V: Case(
        {**WIDE, **UNWANTED, "num_frames": 5, "guidance_scale": 5.0},
        {"negative_prompt": "a big cat", "aspect_ratio": "9:16"},
        UNWANTED,
        few={"num_frames": 5},
    ),
    SMALL_T2V: Case(
        {**WIDE, **UNWANTED, "num_frames": 17, "guidance_scale": 4.0},
        {
            "negative_prompt": "a big cat",
            "guidance_scale": 2.0,
            "shift": 2.0,
            "num_frames": 21,
            "aspect_ratio": "1:1",
        },
        {**UNWANTED, "num_frames": 17, "guidance_scale": 4.0, "shift": 3.0},
        shift=3.0,
    ),
    LARGE_T2V: Case(
        {
            **WIDE,
            "negative_prompt": "",
            "num_frames": 5,
            "guidance_scale": 3.0,
            "guidance_scale_2": 6.0,
        },
        {
            "negative_prompt": "a big cat",
            "guidance_scale": 2.0,
            "guidance_scale_2": 2.0,
            "shift": 2.0,
            "aspect_ratio": "9:16",
        },
        {"guidance_scale": 3.0, "guidance_scale_2": 6.0},
        shift=5.0,
        few={"num_frames": 5},
    ),
    LTX_T2V: Case(
        {**SQUARE, **UNWANTED, "num_frames": 9, "frame_rate": 25.0, "guidance_scale": 4.0},
        {"negative_prompt": "a big cat", "guidance_scale": 2.0},
        {**UNWANTED, "guidance_scale": 4.0},
        SMALL,
    ),
    LTX2: Case(
        {**SQUARE, "num_frames": 9, "frame_rate": 25.0},
        {"fps": "50"},
        few={"duration": 0.36},
    ),
    HUNYUAN: Case({**WIDE, "num_frames": 5}, {"aspect_ratio": "9:16"}, few={"num_frames": 5}),
}
EACH = pytest.mark.parametrize("endpoint_id", CASES)


@pytest.fixture(scope="module")
def engine():
    with Engine(device="cpu", threads=1) as engine:
        yield engine


@pytest.fixture(scope="module")
def pipelines():
    """Pipelines, created once each on first use."""
    cache: dict[str, Any] = {}

    def pipeline(endpoint_id: str) -> Any:
        if endpoint_id not in cache:
            cache[endpoint_id] = MAKE[endpoint_id]()
        return cache[endpoint_id]

    return pipeline


@pytest.fixture
def serve(engine, pipelines):
    def served(endpoint_id: str, **options: Any) -> Served:
        case = CASES.get(endpoint_id)
        more = {**(case.options if case else {}), **options}
        return Served(videos.entry(endpoint_id, **more), pipelines(endpoint_id), engine)

    return served


def body(endpoint_id: str, **changes: Any) -> dict[str, Any]:
    common = {"prompt": "a red dog", "num_inference_steps": 2, "seed": 7}
    return {**common, **(CASES[endpoint_id].body if endpoint_id in CASES else {}), **changes}


def call_of(served: Served, fields: dict[str, Any], **images: Any) -> Any:
    """The call for a video short enough for a test."""
    case = CASES.get(served.entry.endpoint.id)
    return served.call(fields, **(case.few if case else {}), **images)


def frames(served: Served, fields: dict[str, Any], **images: Any) -> torch.Tensor:
    return served.run(call_of(served, fields, **images)).frames


def plain(pipeline: Any, case: Case, seed: int, **changes: Any) -> torch.Tensor:
    own = pipeline.scheduler
    if case.shift is not None:
        pipeline.scheduler = with_shift(own, case.shift)
    try:
        return pipeline(
            prompt="a red dog",
            num_inference_steps=2,
            generator=torch.Generator().manual_seed(seed),
            output_type="pt",
            **{**SHORT_TEXT, **case.plain, **changes},
        ).frames
    finally:
        pipeline.scheduler = own
