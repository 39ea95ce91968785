"""SDXL-Lightning: the entry gives what its authors' published example gives with the same files."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from diffusers import (
    EulerDiscreteScheduler,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLInpaintPipeline,
)
from PIL import Image

from deployments.engine.engine import Engine
from deployments.families.options import prepared_call
from deployments.families.sdxl import SdxlFamily
from deployments.replica import weights
from deployments.replica.resources import weights_name
from serve_app.domain.endpoint import Endpoint, StoreConfig, Weights
from serve_app.domain.errors import InvalidInput
from tests.deployments.served import CATALOG
from tests.engine.loras import save_lora
from tests.engine.tiny import tiny_sdxl
from weights.store import Store, repositories_of

pytestmark = [
    pytest.mark.engine,
    pytest.mark.usefixtures("one_torch_thread"),
    pytest.mark.filterwarnings("ignore:Already found a `peft_config`:UserWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]

LIGHTNING, BASE = "fal-ai/fast-lightning-sdxl", "fal-ai/fast-sdxl"
FROM_IMAGE = {
    f"{LIGHTNING}/image-to-image": StableDiffusionXLImg2ImgPipeline,
    f"{LIGHTNING}/inpainting": StableDiffusionXLInpaintPipeline,
}
SIZE = {"width": 64, "height": 64}
STEPS = (2, 4, 8)


@pytest.fixture
def endpoint(tmp_path):
    """The entry, with files of its adapters' names."""
    for steps in STEPS:
        name = f"sdxl_lightning_{steps}step_lora.safetensors"
        save_lora(tmp_path, tiny_sdxl(), steps).rename(tmp_path / name)
    return in_folder(tmp_path, CATALOG.get(LIGHTNING).endpoint)


@pytest.fixture(params=FROM_IMAGE)
def from_image(request, endpoint):
    """An entry that redraws an image, with the same files."""
    listed = CATALOG.get(request.param).endpoint
    adapters = endpoint.options["adapters"]
    return replace(listed, options={**listed.options, "dtype": "float32", "adapters": adapters})


def in_folder(folder: Any, listed: Endpoint) -> Endpoint:
    local = [
        {name: value for name, value in adapter.items() if name not in ("hub", "revision")}
        for adapter in listed.options["adapters"]
    ]
    adapters = [{**adapter, "directory": str(folder), "scale": 0.1} for adapter in local]
    options = {**listed.options, "dtype": "float32", "adapters": adapters}
    return replace(listed, options=options)


def make_input(steps: int, endpoint_id: str = LIGHTNING, **more: Any) -> dict[str, Any]:
    body = {"prompt": "A girl smiling", "num_inference_steps": str(steps), "seed": 7, **more}
    return CATALOG.get(endpoint_id).schema.validate(body | {"image_size": SIZE})[0]


def run_published_example(folder: Any, steps: int, kind: Any = None, **files: Any) -> torch.Tensor:
    """The example of the weights' documentation, also by a pipeline that redraws an image."""
    pipe: Any = tiny_sdxl()
    if kind is not None:
        pipe = kind.from_pipe(pipe)
    ckpt = f"sdxl_lightning_{steps}step_lora.safetensors"
    pipe.load_lora_weights(str(folder), weight_name=ckpt)
    pipe.fuse_lora(lora_scale=0.1)
    pipe.scheduler = EulerDiscreteScheduler.from_config(
        pipe.scheduler.config, timestep_spacing="trailing"
    )
    generator = torch.Generator().manual_seed(7)
    call = {"num_inference_steps": steps, "guidance_scale": 0}
    more: dict[str, Any] = {"generator": generator, "output_type": "pt", **files}
    if kind is not StableDiffusionXLImg2ImgPipeline:
        more |= SIZE
    return pipe("A girl smiling", **call, **more).images


@pytest.mark.long
def test_each_number_of_steps_has_the_adapter_that_was_distilled_for_it(endpoint, tmp_path):
    pipeline, store = tiny_sdxl(), Store(StoreConfig())
    usual = pipeline.scheduler
    generations = []
    with Engine(device="cpu", threads=1) as engine:
        engine.add("sdxl", pipeline)
        for steps in STEPS:
            adapters = weights.adapters(store, endpoint, make_input(steps))
            assert [adapter.file.name for adapter in adapters] == [
                f"sdxl_lightning_{steps}step_lora.safetensors"
            ]
            call = prepared_call(SdxlFamily(), endpoint, make_input(steps), pipeline, 7)
            view, arguments = call.view, call.arguments
            generations.append(
                engine.submit(pipeline="sdxl", view=view, loras=adapters, **arguments)
            )
            assert (
                generations[-1].result(120).images - run_published_example(tmp_path, steps)
            ).abs().max() < 1e-4
    assert pipeline.scheduler is usual  # that of the entries without adapters


@pytest.mark.long
def test_an_image_is_redrawn_as_diffusers_does_it_with_adapter_and_solver(from_image, tmp_path):
    pipeline, store = tiny_sdxl(), Store(StoreConfig())
    image = Image.radial_gradient("L").resize((64, 64)).convert("RGB")
    mask = Image.linear_gradient("L").resize((64, 64))
    files, urls = {"image": image}, {"image_url": "https://a/b.png"}
    if "inpainting" in from_image.id:
        files, urls = {"image": image, "mask_image": mask}, urls | {"mask_url": "https://a/m.png"}
    arguments = make_input(4, from_image.id, strength=0.6, **urls)
    arguments |= {"image_url": image, "mask_url": mask}
    adapters = weights.adapters(store, from_image, arguments)
    call = prepared_call(SdxlFamily(), from_image, arguments, pipeline, 7)
    with Engine(device="cpu", threads=1) as engine:
        engine.add("sdxl", pipeline)
        generation = engine.submit(
            pipeline="sdxl", view=call.view, loras=adapters, **call.arguments
        )
        images = generation.result(120).images
    assert generation.steps_done == 2  # 0.6 of four steps
    expected = run_published_example(tmp_path, 4, FROM_IMAGE[from_image.id], strength=0.6, **files)
    assert (images - expected).abs().max() < 1e-4


def test_the_weights_are_those_of_the_entry_without_adapters():
    lightning, base = (CATALOG.get(endpoint_id).endpoint for endpoint_id in (LIGHTNING, BASE))
    assert weights_name(lightning, None) == weights_name(base, None)
    _, adapters = repositories_of(lightning)
    assert adapters.source == "ByteDance/SDXL-Lightning"
    assert len(adapters.files) == len(STEPS)


def test_a_single_step_is_refused_for_it_has_no_adapter():
    with pytest.raises(InvalidInput, match="a single step has no adapter"):
        make_input(1)


async def test_a_replica_reads_only_the_adapter_of_the_requested_steps(
    endpoint, make_rig, tmp_path
):
    for steps in STEPS[1:]:
        (tmp_path / f"sdxl_lightning_{steps}step_lora.safetensors").unlink()
    tiny_sdxl().save_pretrained(tmp_path / "weights", safe_serialization=True)
    own = replace(endpoint, weights=Weights(str(tmp_path / "weights")))
    rig = await make_rig(call_timeout_s=20.0)
    lease = rig.lease("one", own, **make_input(2))
    rig.port.offer(lease)
    outcome = await rig.outcome(lease.key)
    assert outcome.failure is None
    assert outcome.usage.steps == 2
