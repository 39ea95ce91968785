"""Qwen-Image-Lightning: the entry gives what its authors' script gives with the same files."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from safetensors.torch import save_file

from deployments.engine.engine import Engine
from deployments.families.generic import GenericFamily
from deployments.families.options import prepared_call
from deployments.replica import weights
from deployments.replica.resources import weights_name
from serve_app.domain.endpoint import StoreConfig
from serve_app.domain.errors import InvalidInput
from tests.deployments.served import CATALOG
from tests.engine.loras import attention_of, parts
from tests.engine.tiny_qwen import tiny_qwen_image
from weights.store import Store, repositories_of

pytestmark = [
    pytest.mark.engine,
    pytest.mark.usefixtures("one_torch_thread"),
    pytest.mark.filterwarnings("ignore:Already found a `peft_config`:UserWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]

LIGHTNING, BASE = "darkroom/qwen-image-lightning", "fal-ai/qwen-image"
SIZE = {"width": 64, "height": 64}
PROMPT = "a coffee shop entrance"
STEPS = (8, 4)

# From the script with which the authors generate.
SOLVER = {
    "base_image_seq_len": 256,
    "base_shift": math.log(3),
    "invert_sigmas": False,
    "max_image_seq_len": 8192,
    "max_shift": math.log(3),
    "num_train_timesteps": 1000,
    "shift": 1.0,
    "shift_terminal": None,
    "stochastic_sampling": False,
    "time_shift_type": "exponential",
    "use_beta_sigmas": False,
    "use_dynamic_shifting": True,
    "use_exponential_sigmas": False,
    "use_karras_sigmas": False,
}


def name_of(steps: int) -> str:
    return f"Qwen-Image-Lightning-{steps}steps-V2.0.safetensors"


def qwen() -> Any:
    """A tiny Qwen-Image with the solver that comes with its weights."""
    pipeline: Any = tiny_qwen_image()
    pipeline.scheduler = FlowMatchEulerDiscreteScheduler.from_config(
        {**SOLVER, "base_shift": 0.5, "max_shift": 0.9, "shift_terminal": 0.02}
    )
    return pipeline


def save_as_published(file: Path, seed: int) -> None:
    """An adapter with the names of the published files: down, up and alpha of each layer."""
    transformer = qwen().transformer
    ends = ("to_q", "add_k_proj", "to_out.0", "img_mlp.net.0.proj", "txt_mlp.net.2")
    state = {}
    for name, tensor in parts(transformer, attention_of(transformer, ends), seed, rank=4).items():
        layer, half, _ = name.rsplit(".", 2)
        half = {"lora_A": "lora_down", "lora_B": "lora_up"}[half]
        state[f"{layer}.{half}.weight"] = tensor * 0.2
        state[f"{layer}.alpha"] = torch.tensor(2.0)
    save_file(state, file)


@pytest.fixture
def endpoint(tmp_path: Path) -> Any:
    """The entry, with files of its adapters' names."""
    for steps in STEPS:
        save_as_published(tmp_path / name_of(steps), steps)
    listed = CATALOG.get(LIGHTNING).endpoint
    adapters = [
        {"directory": str(tmp_path), "file": adapter["file"], "steps": adapter["steps"]}
        for adapter in listed.options["adapters"]
    ]
    return replace(listed, options={**listed.options, "dtype": "float32", "adapters": adapters})


def make_input(steps: Any) -> dict[str, Any]:
    body = {"prompt": PROMPT, "num_inference_steps": steps, "seed": 7, "image_size": SIZE}
    return CATALOG.get(LIGHTNING).schema.validate(body)[0]


def run_published_example(folder: Path, steps: int) -> torch.Tensor:
    pipe = qwen()
    pipe.scheduler = FlowMatchEulerDiscreteScheduler.from_config(SOLVER)
    pipe.load_lora_weights(str(folder / name_of(steps)))
    return pipe(
        prompt=PROMPT,
        negative_prompt=" ",
        num_inference_steps=steps,
        true_cfg_scale=1.0,
        generator=torch.Generator().manual_seed(7),
        output_type="pt",
        **SIZE,
    ).images


def test_each_number_of_steps_has_its_adapter_and_the_authors_schedule(endpoint, tmp_path):
    pipeline, store = qwen(), Store(StoreConfig())
    usual = pipeline.scheduler
    images = []
    with Engine(device="cpu", threads=1) as engine:
        engine.add("qwen", pipeline)
        for steps in STEPS:
            adapters = weights.adapters(store, endpoint, make_input(steps))
            assert [adapter.file.name for adapter in adapters] == [name_of(steps)]
            call = prepared_call(GenericFamily(), endpoint, make_input(steps), pipeline, 7)
            generation = engine.submit(
                pipeline="qwen", view=call.view, loras=adapters, **call.arguments
            )
            images.append(generation.result(120).images)
            assert (images[-1] - run_published_example(tmp_path, steps)).abs().max() < 1e-4
    assert not torch.equal(*images)
    assert pipeline.scheduler is usual  # that of fal-ai/qwen-image


def test_the_weights_are_those_of_qwen_image():
    lightning, base = (CATALOG.get(endpoint_id).endpoint for endpoint_id in (LIGHTNING, BASE))
    assert weights_name(lightning, None) == weights_name(base, None)
    _, adapters = repositories_of(lightning)
    assert adapters.source == "lightx2v/Qwen-Image-Lightning"
    assert {*adapters.files} == {name_of(steps) for steps in STEPS}


@pytest.mark.parametrize("steps", [1, 5, 30])
def test_numbers_of_steps_without_an_adapter_are_refused(steps):
    with pytest.raises(InvalidInput, match="num_inference_steps"):
        make_input(steps)
