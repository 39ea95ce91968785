"""A LoRA added into the weights for good."""

from pathlib import Path

import pytest
import torch
from diffusers import EulerDiscreteScheduler, LCMScheduler
from safetensors.torch import load_file, save_file

from deployments.engine.interception.pipeline import set_scheduler
from deployments.engine.lora.format import merge_lora
from serve_app.domain.errors import Misconfigured, WeightsUnavailable
from tests.engine.tiny import tiny_flux, tiny_sdxl

pytestmark = [
    pytest.mark.engine,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]

RANK = 4
LINEAR = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
FEED = "mid_block.attentions.0.transformer_blocks.0.ff.net.0.proj"
CONVOLUTION = "up_blocks.0.resnets.0.conv1"
LAYERS = (LINEAR, FEED, CONVOLUTION)


def parts(layer: torch.nn.Module, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    noise = torch.Generator().manual_seed(seed)
    out, into, *kernel = layer.weight.shape
    down = torch.randn(RANK, into, *kernel, generator=noise)
    return down, torch.randn(out, RANK, *(1 for _ in kernel), generator=noise)


def write_lora(folder: Path, unet: torch.nn.Module, alpha: float | None = 2.0) -> Path:
    """In the layout that latent consistency LoRAs come in."""
    state = {}
    for number, name in enumerate(LAYERS):
        key = "lora_unet_" + name.replace(".", "_")
        down, up = parts(unet.get_submodule(name), number)
        state |= {f"{key}.lora_down.weight": down, f"{key}.lora_up.weight": up}
        if alpha is not None:
            state[f"{key}.alpha"] = torch.tensor(alpha)
    save_file(state, folder / "lora.safetensors")
    return folder / "lora.safetensors"


@pytest.mark.parametrize(("alpha", "factor"), [(2.0, 2.0 / RANK), (None, 1.0)])
def test_its_layers_get_the_product_of_its_parts_and_no_others_change(tmp_path, alpha, factor):
    pipeline, plain = tiny_sdxl(), tiny_sdxl()
    merge_lora(pipeline, write_lora(tmp_path, plain.unet, alpha), scale=0.5)
    for number, name in enumerate(LAYERS):
        before, after = (model.unet.get_submodule(name).weight for model in (plain, pipeline))
        down, up = parts(plain.unet.get_submodule(name), number)
        product = torch.einsum("or,ri->oi", up.flatten(1), down.flatten(1)).view(before.shape)
        assert torch.allclose(after - before, 0.5 * factor * product, atol=1e-5)
    changed = {f"{name}.weight" for name in LAYERS}
    old = plain.unet.state_dict()
    for name, weight in pipeline.unet.state_dict().items():
        assert torch.equal(weight, old[name]) == (name not in changed), name


def test_weights_of_half_precision_stay_so_and_are_added_to_in_whole(tmp_path):
    pipeline, plain = tiny_sdxl(), tiny_sdxl()
    file = write_lora(tmp_path, plain.unet)
    pipeline.unet.to(torch.float16)
    plain.unet.to(torch.float16).to(torch.float32)
    merge_lora(pipeline, file)
    merge_lora(plain, file)
    half, whole = (model.unet.get_submodule(FEED).weight for model in (pipeline, plain))
    assert half.dtype is torch.float16
    assert torch.equal(half, whole.to(torch.float16))


def test_a_transformers_lora_in_diffusers_own_layout_is_read(tmp_path):
    pipeline, plain = tiny_flux(), tiny_flux()
    name = "transformer_blocks.0.attn.to_q"
    down, up = parts(plain.transformer.get_submodule(name), 1)
    key = f"transformer.{name}"
    file = tmp_path / "flux.safetensors"
    save_file({f"{key}.lora_A.weight": down, f"{key}.lora_B.weight": up}, file)
    merge_lora(pipeline, file)
    before, after = (model.transformer.get_submodule(name).weight for model in (plain, pipeline))
    assert torch.allclose(after, before + up @ down, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda state: state | {"lora_unet_nothing.lora_down.weight": torch.ones(4, 4),
                                "lora_unet_nothing.lora_up.weight": torch.ones(4, 4)},
         "for another model: this StableDiffusionXLPipeline has no lora_unet_nothing"),
        (lambda state: {name: torch.ones(3, 3) for name in state if not name.endswith("alpha")},
         "for a model of another size"),
        (lambda _: {"unet.conv_in.weight": torch.ones(1)}, "such as unet.conv_in.weight"),
        (lambda _: {"lora_unet_conv_in.hada_w1_a": torch.ones(1)}, "has no hada_w1_b"),
        (lambda state: state | {"lora_unet_conv_in.other.weight": torch.ones(1)},
         "no part of an adapter"),
        (lambda _: {"unet.time_proj.lora_A.weight": torch.ones(1, 1),
                    "unet.time_proj.lora_B.weight": torch.ones(1, 1)}, "has no unet.time_proj"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_and_nothing_is_changed(tmp_path, change, says):
    pipeline, plain = tiny_sdxl(), tiny_sdxl()
    file = write_lora(tmp_path, plain.unet)
    save_file(change(load_file(file)), file)
    with pytest.raises(Misconfigured, match=says):
        merge_lora(pipeline, file)
    old = plain.unet.state_dict()
    for name, weight in pipeline.unet.state_dict().items():
        assert torch.equal(weight, old[name])


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / "broken.safetensors").write_bytes(b"nothing")
    for name in ("none.safetensors", "broken.safetensors"):
        with pytest.raises(WeightsUnavailable, match=name):
            merge_lora(tiny_sdxl(), tmp_path / name)


def test_a_solver_is_configured_as_the_one_before_but_for_what_is_said():
    pipeline = tiny_sdxl(EulerDiscreteScheduler(beta_end=0.013))
    set_scheduler(pipeline, "LCMScheduler", beta_start=0.001)
    assert isinstance(pipeline.scheduler, LCMScheduler)
    assert pipeline.scheduler.config["beta_start"] == 0.001
    assert pipeline.scheduler.config["beta_end"] == 0.013


@pytest.mark.parametrize(
    ("name", "changes", "says"),
    [
        ("LcmScheduler", {}, "has no scheduler 'LcmScheduler'"),
        ("AutoencoderKL", {}, "has no scheduler 'AutoencoderKL'"),
        ("LCMScheduler", {"bta": 1}, "LCMScheduler has no setting bta. Its settings: beta_end"),
    ],
)
def test_a_solver_or_a_setting_that_is_not_there_is_reported(name, changes, says):
    with pytest.raises(Misconfigured, match=says):
        set_scheduler(tiny_sdxl(), name, **changes)
