"""SDXL-Lightning: the entry gives what its authors' published example gives with the same files."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from diffusers import EulerDiscreteScheduler

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
SIZE = {"width": 64, "height": 64}
STEPS = (2, 4, 8)


@pytest.fixture
def endpoint(tmp_path):
    """The entry, with files of its adapters' names."""
    for steps in STEPS:
        name = f"sdxl_lightning_{steps}step_lora.safetensors"
        save_lora(tmp_path, tiny_sdxl(), steps).rename(tmp_path / name)
    return in_folder(tmp_path, CATALOG.get(LIGHTNING).endpoint)


def in_folder(folder: Any, listed: Endpoint) -> Endpoint:
    local = [
        {name: value for name, value in each.items() if name not in ("hub", "revision")}
        for each in listed.options["adapters"]
    ]
    adapters = [{**each, "directory": str(folder), "scale": 0.1} for each in local]
    options = {**listed.options, "dtype": "float32", "adapters": adapters}
    return replace(listed, options=options)


def given(steps: int) -> dict[str, Any]:
    body = {"prompt": "A girl smiling", "num_inference_steps": str(steps), "seed": 7}
    return CATALOG.get(LIGHTNING).schema.validate(body | {"image_size": SIZE})[0]


def published(folder: Any, steps: int) -> torch.Tensor:
    """The example of the weights' documentation."""
    pipe: Any = tiny_sdxl()
    ckpt = f"sdxl_lightning_{steps}step_lora.safetensors"
    pipe.load_lora_weights(str(folder), weight_name=ckpt)
    pipe.fuse_lora(lora_scale=0.1)
    pipe.scheduler = EulerDiscreteScheduler.from_config(
        pipe.scheduler.config, timestep_spacing="trailing"
    )
    generator = torch.Generator().manual_seed(7)
    call = {"num_inference_steps": steps, "guidance_scale": 0}
    more: dict[str, Any] = {"generator": generator, "output_type": "pt", **SIZE}
    return pipe("A girl smiling", **call, **more).images


def test_each_number_of_steps_has_the_adapter_that_was_distilled_for_it(endpoint, tmp_path):
    pipeline, store = tiny_sdxl(), Store(StoreConfig())
    usual = pipeline.scheduler
    made = []
    with Engine(device="cpu", threads=1) as engine:
        engine.add("sdxl", pipeline)
        for steps in STEPS:
            adapters = weights.adapters(store, endpoint, given(steps))
            assert [each.file.name for each in adapters] == [
                f"sdxl_lightning_{steps}step_lora.safetensors"
            ]
            call = prepared_call(SdxlFamily(), endpoint, given(steps), pipeline, 7)
            view, arguments = call.view, call.arguments
            made.append(engine.submit(pipeline="sdxl", view=view, loras=adapters, **arguments))
            assert (made[-1].result(120).images - published(tmp_path, steps)).abs().max() < 1e-4
    assert pipeline.scheduler is usual  # that of the entries without adapters


def test_the_weights_are_those_of_the_entry_without_adapters():
    lightning, base = (CATALOG.get(each).endpoint for each in (LIGHTNING, BASE))
    assert weights_name(lightning, None) == weights_name(base, None)
    _, adapters = repositories_of(lightning)
    assert adapters.source == "ByteDance/SDXL-Lightning"
    assert len(adapters.files) == len(STEPS)


def test_a_single_step_is_refused_for_it_has_no_adapter():
    with pytest.raises(InvalidInput, match="a single step has no adapter"):
        given(1)


async def test_a_replica_reads_only_the_adapter_of_the_requested_steps(
    endpoint, make_rig, tmp_path
):
    for steps in STEPS[1:]:
        (tmp_path / f"sdxl_lightning_{steps}step_lora.safetensors").unlink()
    tiny_sdxl().save_pretrained(tmp_path / "weights", safe_serialization=True)
    own = replace(endpoint, weights=Weights(str(tmp_path / "weights")))
    rig = await make_rig(call_timeout_s=20.0)
    lease = rig.lease("one", own, **given(2))
    rig.port.offer(lease)
    outcome = await rig.outcome(lease.held)
    assert outcome.failure is None
    assert outcome.usage.steps == 2
