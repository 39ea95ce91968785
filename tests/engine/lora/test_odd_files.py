"""LoRA files of strangers that no trainer has saved: each is refused, soon and with a sentence."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from deployments.engine.lora.format import read_lora
from serve_app.domain.errors import Misconfigured, WeightsUnavailable
from tests.engine.loras import save_lora
from tests.engine.tiny import tiny_flux

pytestmark = [
    pytest.mark.engine,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"alpha_pattern": {r"(([a-z_0-9]|\.)+)+!": 5}}, "regular expression"),
        ({"alpha_pattern": {"to_q": "much"}}, "settings"),
        ({"alpha_pattern": ["to_q"]}, "settings"),
        ({"lora_alpha": "much"}, "settings"),
    ],
)
def test_settings_of_strangers_are_checked_and_never_run_as_regular_expressions(
    tmp_path, settings, match
):
    """Such an expression can take years, and meanwhile no other thread of the replica runs."""
    pipeline = tiny_flux()
    file = save_lora(tmp_path, pipeline, 1, alpha=2, **settings)
    with pytest.raises(Misconfigured, match=match):
        read_lora(pipeline, file)


@pytest.mark.parametrize("settings", ["[]", "1", "[" * 100_000])
def test_a_header_that_has_no_settings_is_refused(tmp_path, settings):
    pipeline = tiny_flux()
    state = load_file(save_lora(tmp_path, pipeline, 1))
    file = tmp_path / "other.safetensors"
    save_file(state, file, metadata={"lora_adapter_metadata": settings})
    with pytest.raises((Misconfigured, WeightsUnavailable), match=r"other\.safetensors"):
        read_lora(pipeline, file)


@pytest.mark.parametrize("alpha", [-1.0, float("-inf"), float("nan"), [1.0, 2.0]])
def test_an_alpha_with_which_diffusers_would_not_end_is_refused(tmp_path, alpha):
    """diffusers halves and doubles its two scales until they are near, which they never are."""
    file = tmp_path / "lora.safetensors"
    save_file(kohya_of_flux(alpha=torch.tensor(alpha)), file)
    with pytest.raises(Misconfigured, match="alpha"):
        read_lora(tiny_flux(), file)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_values_that_are_no_numbers_are_refused_before_an_image_is_black(tmp_path, value, dtype):
    file = tmp_path / "lora.safetensors"
    tensors = kohya_of_flux(alpha=torch.tensor(1.0))
    (up,) = (name for name in tensors if "lora_up" in name)
    tensors[up] = tensors[up].to(dtype)
    tensors[up][3] = value
    save_file(tensors, file)
    with pytest.raises(Misconfigured, match=f"{up} has values that are not finite"):
        read_lora(tiny_flux(), file)


def test_a_layer_that_the_model_does_not_have_is_named_with_its_trainer(tmp_path):
    file, other = tmp_path / "lora.safetensors", "lora_unet_unknown_proj_out"
    halves = {f"{other}.lora_{half}.weight": torch.ones(1, 1) for half in ("down", "up")}
    save_file(kohya_of_flux(alpha=torch.tensor(1.0)) | halves, file)
    with pytest.raises(Misconfigured, match=f"no {other} .*kohya"):
        read_lora(tiny_flux(), file)


def test_a_tensor_of_an_unknown_kind_is_refused(tmp_path):
    file = tmp_path / "lora.safetensors"
    save_file(kohya_of_flux(alpha=torch.tensor(1.0)) | {"proj_out.other": torch.ones(1)}, file)
    with pytest.raises(Misconfigured, match=r"no part of an adapter, such as proj_out\.other"):
        read_lora(tiny_flux(), file)


@pytest.mark.parametrize(
    "parts",
    [
        {"lora_A.weight": (), "lora_B.weight": (16, 2)},
        {"lora_A.weight": (2, 32), "lora_B.weight": ()},
        {"lokr_w1_a": (2, 2), "lokr_w1_b": (1, 2), "lokr_w2": (8, 16)},
        {"lokr_w1": (2,), "lokr_w2": (8, 16)},
        {"hada_w1_a": (), "hada_w1_b": (2, 32), "hada_w2_a": (0, 0), "hada_w2_b": (2, 32)},
        {"lora_A.weight": (1,), "lora_B.weight": (16, 2), "lora_magnitude_vector": (16,)},
    ],
)
def test_parts_of_shapes_that_no_adapter_has_are_refused(tmp_path, parts):
    file = tmp_path / "lora.safetensors"
    tensors = {f"transformer.proj_out.{name}": torch.ones(shape) for name, shape in parts.items()}
    save_file(tensors, file)
    with pytest.raises(Misconfigured, match=r"lora\.safetensors"):
        read_lora(tiny_flux(), file)


def kohya_of_flux(alpha):
    layer = "lora_transformer_single_transformer_blocks_0_attn_to_q"
    width = tiny_flux().transformer.inner_dim
    halves = {"lora_down": torch.ones(1, width), "lora_up": torch.ones(width, 1)}
    return {f"{layer}.{name}.weight": half for name, half in halves.items()} | {
        f"{layer}.alpha": alpha
    }


def test_a_lora_of_rank_0_is_refused(tmp_path):
    pipeline = tiny_flux()
    file = save_lora(tmp_path, pipeline, 1, rank=0)
    with pytest.raises(Misconfigured, match="rank"):
        read_lora(pipeline, file)
