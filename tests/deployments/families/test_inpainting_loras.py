"""Inpainting of models whose latents have other channels than SDXL's: its denoiser is a copy."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from PIL import Image

from deployments.engine.engine import Engine
from deployments.engine.loading.loader import load_pipeline
from deployments.engine.lora.format import Lora
from deployments.families.sdxl import SdxlFamily
from serve_app.domain.endpoint import Weights
from tests.deployments.demos import CATALOG
from tests.engine.gate import Gate
from tests.engine.loras import attention_of, save_lora

pytestmark = [
    pytest.mark.engine,
    pytest.mark.usefixtures("one_torch_thread"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]

INPAINTING = CATALOG.get("fal-ai/fast-sdxl/inpainting")
SIDE = {"width": 64, "height": 64}


def arguments_of(pipeline: Any, seed: int) -> dict[str, Any]:
    body = {"prompt": "a red circle", "num_inference_steps": 2, "seed": seed, "image_size": SIDE}
    urls = dict.fromkeys(("image_url", "mask_url"), "https://example.org/a.png")
    checked, _ = INPAINTING.schema.validate({**body, **urls})
    images = {
        "image_url": Image.linear_gradient("L").resize((64, 64)).convert("RGB"),
        "mask_url": Image.new("L", (64, 64), 255),
    }
    call = SdxlFamily().prepare(INPAINTING.endpoint, {**checked, **images}, pipeline, seed)
    return {**call.arguments, "view": call.view}


@pytest.mark.long
def test_the_demo_model_inpaints_with_the_loras_of_each_request(tmp_path: Any) -> None:
    pipeline = load_pipeline(Weights(INPAINTING.endpoint.weights.source))
    layers = attention_of(pipeline.unet)[:8]
    file = save_lora(tmp_path, pipeline, 1, layers=layers)
    calls = [arguments_of(pipeline, 1) for _ in range(2)]
    assert calls[0]["view"].unet is not pipeline.unet  # what this test is about
    plain, with_lora = (dict(call) for call in calls)
    with Engine(threads=1, max_batch=4, limit_rows=False) as engine:
        engine.add("sdxl", pipeline)
        gate = Gate(engine)
        running = [
            engine.submit(pipeline="sdxl", **plain),
            engine.submit(pipeline="sdxl", loras=[Lora(file, 0.3)], **with_lora),
        ]
        gate.open()
        images = [generation.result(120).images for generation in running]
        again = arguments_of(pipeline, 1)
        after = engine.submit(pipeline="sdxl", **again).result(120).images

    expected = []
    for scale in (0.0, 0.3):
        alone: Any = load_pipeline(Weights(INPAINTING.endpoint.weights.source))
        if scale:
            alone.load_lora_weights(str(tmp_path), weight_name=file.name, adapter_name="it")
            alone.set_adapters(["it"], [scale])
        arguments = arguments_of(alone, 1)
        expected.append(arguments.pop("view")(**arguments).images)
    assert (expected[0] - expected[1]).abs().max() > 0.01
    assert (images[0] - expected[0]).abs().max() < 1e-3
    assert (images[1] - expected[1]).abs().max() < 1e-3
    assert torch.equal(after, expected[0])
