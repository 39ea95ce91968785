"""LoRAs that change text encoders too, as most that are published for Stable Diffusion XL do."""

import pytest
import torch
from peft.tuners.lora import LoraLayer
from safetensors.torch import save_file

from deployments.engine.engine import Engine
from deployments.engine.lora.format import Lora, merge_lora
from tests.engine.calls import call
from tests.engine.gate import merging_engine
from tests.engine.loras import attention_of, parts, save_lora, with_encoders
from tests.engine.tiny import tiny_flux, tiny_sdxl
from tests.engine.with_loras import plain_with, relative, together

pytestmark = [
    pytest.mark.engine,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
    # peft, of the second LoRA that diffusers itself loads
    pytest.mark.filterwarnings("ignore:Already found a `peft_config`:UserWarning"),
    pytest.mark.usefixtures("one_torch_thread"),
]


@pytest.mark.variants(1)
@pytest.mark.parametrize("make", [tiny_flux, tiny_sdxl])
def test_loras_may_change_text_encoders_too(make, tmp_path):
    pipeline = make()
    loras = [save_lora(tmp_path, pipeline, seed) for seed in (1, 2)]
    first, two = (with_encoders(file, pipeline, 5 + n, tmp_path) for n, file in enumerate(loras))
    lora_lists = [[Lora(first)], [], [Lora(two, 0.5)], [Lora(loras[0])], [Lora(first, 0.3)]]
    with merging_engine(pipeline, max_batch=8, threads=1, verify_merges=True) as engine:
        before = engine.submit(**call(seed=1)).result(60).images
        for path in (first, two, loras[0]):
            engine.submit(loras=[Lora(path)], **call(steps=1)).result(60)
        # The same prompt for all: what encoders remember is distinguished by the LoRAs.
        results = together(
            engine,
            [{**call(seed=seed), "loras": lora_list} for seed, lora_list in enumerate(lora_lists)],
        )
        encoded = engine.counts()["prompts_encoded"]
        again = together(
            engine,
            [{**call(seed=seed), "loras": lora_list} for seed, lora_list in enumerate(lora_lists)],
        )
        assert engine.counts()["prompts_encoded"] == encoded
        counts = engine.counts()
        after = engine.submit(**call(seed=1)).result(60).images
    assert torch.equal(before, after)
    for seed, chosen in enumerate(lora_lists):
        expected = plain_with(make, chosen, seed=seed)
        assert relative(results[seed], expected) <= 1e-5
        assert relative(again[seed], expected) <= 1e-5
    alike = [Lora(loras[0])]  # or the test would prove nothing
    assert relative(plain_with(make, alike, seed=0), results[0]) > 1e-4
    assert (
        not {"failed when merged", "differs when merged"} & counts["encoders"]["not_merged"].keys()
    )
    assert not any(isinstance(module, LoraLayer) for module in pipeline.text_encoder.modules())


def in_the_names_of_kohya(pipeline, file):
    """As most LoRAs for Stable Diffusion XL are published: with what their trainer calls layers,
    and an alpha for each."""
    state = {}
    for component, short in (("unet", "unet"), ("text_encoder", "te1"), ("text_encoder_2", "te2")):
        module = getattr(pipeline, component)
        layers = attention_of(module, ("attn1.to_q", ".q_proj", ".k_proj", ".v_proj", ".out_proj"))
        for name, weight in parts(module, layers, 8, rank=4).items():
            layer, half = name.removesuffix(".weight").rsplit(".", 1)
            below = "" if component == "unet" or layer.startswith("text_model.") else "text_model_"
            full = f"lora_{short}_{below}{layer.replace('.', '_')}"
            state[f"{full}.lora_{'down' if half == 'lora_A' else 'up'}.weight"] = weight
            state[f"{full}.alpha"] = torch.tensor(2.0)
    save_file(state, file)
    return file


@pytest.mark.long
def test_loras_with_text_encoders_are_read_as_they_are_published(tmp_path):
    pipeline = tiny_sdxl()
    chosen = [Lora(in_the_names_of_kohya(pipeline, tmp_path / "published.safetensors"), 0.8)]
    with Engine(pipeline, threads=1) as engine:
        images = engine.submit(loras=chosen, **call()).result(60).images
    assert relative(images, plain_with(tiny_sdxl, chosen)) <= 1e-5
    merge_lora(pipeline, chosen[0].file, chosen[0].scale)
    assert relative(pipeline(**call()).images, images) <= 1e-4
