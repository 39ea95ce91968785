"""Demo endpoints give the same results through the engine as in diffusers: bit for bit if they run
alone, within rounding if they run merged."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline
from PIL import Image, ImageDraw

from deployments.engine.engine import Engine
from deployments.engine.loop.generation import Generation
from deployments.engine.loop.options import GenerationOptions
from deployments.families.base import Family, GenerationCall, load_families
from deployments.families.options import file_fields
from deployments.families.registry import FAMILIES
from tests.deployments.demos import CATALOG
from tests.engine.demo_calls import made_of
from tests.engine.gate import Gate, merging_engine
from tests.samples import sample_params

pytestmark = [
    pytest.mark.engine,
    # torch, transformers and diffusers raise deprecation warnings about themselves while they load.
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]

DEMOS = [entry.endpoint.id for entry in CATALOG if entry.demo]
SAMPLE = (
    "fal-ai/fast-sdxl/inpainting",
    "fal-ai/stable-audio",
)
WISHES = (("a red circle", 1, 2), ("a blue star", 2, 4), ("a green square", 3, 3))
"""(prompt, seed, steps)."""
SMALL: Mapping[str, Mapping[str, Any]] = {
    "flux": {"image_size": {"width": 64, "height": 64}},
    "sdxl": {"image_size": {"width": 64, "height": 64}},
    "video": {"guidance_scale": 2.0},
    "audio": {"seconds_total": 0.2},
}
WITHIN = 1e-4  # of 1: the difference of white and black, or of the loudest audio and silence


class Demo:
    """An endpoint with its demo weights, loaded by diffusers itself."""

    def __init__(self, endpoint_id: str) -> None:
        self.endpoint = CATALOG.get(endpoint_id).endpoint
        self.pipeline = load_pipeline(self.endpoint.weights.source)
        self._family = families()[self.endpoint.family]

    def call(self, number: int) -> GenerationCall:
        """The call of request ``number``. Built each time: a call uses up its random numbers."""
        prompt, seed, steps = WISHES[number]
        files = file_fields(self.endpoint)
        body = {"prompt": prompt, "seed": seed, **SMALL[self.endpoint.family]}
        body |= dict.fromkeys(files, "https://example.com/image.png")
        fields = CATALOG.validate(self.endpoint.id, body).input
        fields |= {name: image(name, number) for name in files if name in fields}
        # Below the limit of some endpoints.
        fields |= {name: steps for name in ("num_inference_steps", "steps") if name in fields}
        return self._family.prepare(self.endpoint, fields, self.pipeline, 0)

    def plain(self, number: int) -> torch.Tensor:
        call = self.call(number)
        called = self.pipeline if call.view is None else call.view
        return made_of(called(**call.arguments))


class Served:
    """A generation of an endpoint, made as in a replica."""

    def __init__(self, engine: Engine, call: GenerationCall) -> None:
        self._frames: list[torch.Tensor] = []  # of a video, while its file is written
        self._generation: Generation = engine.submit(
            view=call.view,
            options=GenerationOptions(
                on_frames=None if call.recording is None else self._frames.append
            ),
            **call.arguments,
        )

    def result(self) -> torch.Tensor:
        result = made_of(self._generation.result(60))
        return torch.cat(self._frames)[None] if self._frames else result


@cache
def load_pipeline(folder: str) -> Any:
    pipeline = DiffusionPipeline.from_pretrained(folder, torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@cache
def families() -> Mapping[str, Family]:
    return load_families(FAMILIES)


def image(field: str, number: int) -> Image.Image:
    is_mask = field == "mask_url"
    drawn = Image.new("L" if is_mask else "RGB", (64, 64), "black" if is_mask else "lightgrey")
    ImageDraw.Draw(drawn).rectangle((0, 0, 16 + 16 * number, 40), fill="white")
    return drawn


@pytest.mark.variants(1)
@pytest.mark.parametrize("endpoint_id", sample_params(DEMOS, *SAMPLE))
def test_a_demo_endpoint_makes_what_plain_diffusers_makes(endpoint_id: str) -> None:
    demo = Demo(endpoint_id)
    plain = [demo.plain(number) for number in range(len(WISHES))]
    assert (plain[0] - plain[1]).abs().max() > 100 * WITHIN  # or the test is meaningless
    with merging_engine(demo.pipeline, threads=1) as engine:
        assert torch.equal(Served(engine, demo.call(0)).result(), plain[0])
        gate = Gate(engine)
        together = [Served(engine, demo.call(number)) for number in range(len(WISHES))]
        gate.open()
        for served, expected in zip(together, plain, strict=True):
            assert (served.result() - expected).abs().max() <= WITHIN
        assert engine.counts()["merged_calls"] >= 5
        assert torch.equal(Served(engine, demo.call(0)).result(), plain[0])
    assert torch.equal(demo.plain(0), plain[0])
