"""Tiny video pipelines of the classes of the catalogue's weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from diffusers import UniPCMultistepScheduler
from PIL import Image, ImageDraw

from deployments.families.base import GenerationResult, Product
from serve_app.catalog.catalog import CatalogEntry
from serve_app.domain.artifact import UploadTicket
from tests.deployments.served import CATALOG, Served
from tests.engine.conformance import zoo
from tests.engine.conformance.case import Case
from tests.engine.conformance.families import wan

SHORT_TEXT = {"max_sequence_length": 16}


WAN_T2V, WAN_I2V = "fal-ai/wan-t2v", "fal-ai/wan-i2v"
SMALL_T2V, SMALL_I2V = "fal-ai/wan/v2.2-5b/text-to-video", "fal-ai/wan/v2.2-5b/image-to-video"
LARGE_T2V, LARGE_I2V = (
    "fal-ai/wan/v2.2-a14b/text-to-video",
    "fal-ai/wan/v2.2-a14b/image-to-video",
)
LTX_T2V, LTX_I2V = "fal-ai/ltx-video", "fal-ai/ltx-video/image-to-video"
LTX2 = "fal-ai/ltx-2/text-to-video"
HUNYUAN, HUNYUAN_I2V = "fal-ai/hunyuan-video", "fal-ai/hunyuan-video-image-to-video"


def _two_experts_from_images() -> Any:
    parts = wan.parts(
        transformer=wan.transformer(36),
        transformer_2=wan.transformer(36),
        boundary_ratio=0.9,
        scheduler=UniPCMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=5.0
        ),
    )
    return Case("wan", "WanImageToVideoPipeline", lambda: parts, wan.size).build()


def _of(title: str) -> Callable[[], Any]:
    return zoo.cases()[title].build


MAKE: Mapping[str, Callable[[], Any]] = {
    WAN_T2V: _of("WanPipeline, one expert"),
    WAN_I2V: _of("WanImageToVideoPipeline"),
    SMALL_T2V: _of("WanPipeline, a timestep for each token"),
    SMALL_I2V: _of("WanPipeline, a timestep for each token"),
    LARGE_T2V: _of("WanPipeline"),
    LARGE_I2V: _two_experts_from_images,
    LTX_T2V: _of("LTXPipeline"),
    LTX_I2V: _of("LTXPipeline"),
    LTX2: _of("LTX2Pipeline"),
    HUNYUAN: _of("HunyuanVideoPipeline"),
    HUNYUAN_I2V: _of("HunyuanVideoImageToVideoPipeline"),
}
"""Endpoint → tiny pipeline that replaces its own."""


def entry(endpoint_id: str, **options: Any) -> CatalogEntry:
    """The catalogue's entry with a size and prompts for tiny models."""
    listed = CATALOG.get_listed(endpoint_id)
    listed_options = listed.endpoint.options
    changed = {
        **listed_options,
        "dtype": "float32",
        "native_size": 32,
        **options,
        "fixed": {**listed_options.get("fixed", {}), **SHORT_TEXT},
    }
    return replace(listed, endpoint=replace(listed.endpoint, options=changed))


def tickets(count: int = 2, media_type: str = "video/mp4") -> tuple[UploadTicket, ...]:
    types = (media_type, "image/jpeg")[:count]
    return tuple(
        UploadTicket(f"key-{number}", f"http://storage/{number}", kind, 10**8)
        for number, kind in enumerate(types)
    )


def input_image(width: int = 96, height: int = 64) -> Image.Image:
    image = Image.new("RGB", (width, height), (240, 240, 240))
    ImageDraw.Draw(image).rectangle((0, 0, width // 2, height), fill=(200, 30, 30))
    return image


@dataclass(frozen=True)
class Seen:
    """A video file that was decoded again."""

    codec: str
    pixels: str
    size: tuple[int, int]
    fps: Fraction
    duration_s: float
    times_s: list[float]  # presentation times of the frames
    frames: list[np.ndarray]  # [height, width, 3], uint8
    audio: tuple[str, int, float] | None  # codec, sample rate in Hz, seconds


def decode_video(path: Path) -> Seen:
    with av.open(str(path)) as file:
        video = file.streams.video[0]
        codec = video.codec_context.name
        audio = None
        frames, times, samples = [], [], 0
        for frame in file.decode(*file.streams.video, *file.streams.audio):
            if isinstance(frame, av.VideoFrame):
                frames.append(frame.to_ndarray(format="rgb24"))
                times.append(frame.time)
            else:
                samples += frame.samples
        if file.streams.audio:
            heard = file.streams.audio[0]
            audio = (heard.codec_context.name, heard.rate, samples / heard.rate)
        return Seen(
            codec,
            video.codec_context.pix_fmt,
            (video.width, video.height),
            video.average_rate,
            file.duration / 1e6,
            times,
            frames,
            audio,
        )


def deliver(served: Served, call: Any, result: Any, count: int = 2) -> Product:
    form = call.output_facts["video"].form
    generated = GenerationResult(result, 1.5, 2)
    return served.family.deliver(
        served.entry.endpoint, call, generated, tickets(count, form.media_type)
    )
