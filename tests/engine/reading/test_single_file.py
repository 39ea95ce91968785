"""Single-file checkpoints give the same weights as the folder that they were made from."""

import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import FluxTransformer2DModel, WanTransformer3DModel
from safetensors.torch import save_file

from deployments.engine.loading.loader import load_pipeline, weights_bytes
from deployments.engine.reading.single_file import read_checkpoint
from deployments.engine.reading.unread import UnreadWeight, reading_later
from serve_app.domain.endpoint import Weights
from serve_app.domain.errors import WeightsUnavailable
from tests.engine.original_layout import original_sdxl, original_unet
from tests.engine.tiny import tiny_flux, tiny_sdxl
from weights.selection import select

pytestmark = [
    pytest.mark.engine,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]

EVERY = ("unet", "vae", "text_encoder", "text_encoder_2")
WIDTH = 3072  # of FLUX.1, which diffusers' converter knows and a smaller one cannot have
FP8 = torch.float8_e4m3fn
FP8_MAX = torch.finfo(FP8).max
FP8_ERROR = 1 / 16  # of its three bits, relative


@pytest.fixture(scope="module")
def sdxl():
    return tiny_sdxl()


@pytest.fixture(scope="module")
def base(sdxl, tmp_path_factory):
    folder = tmp_path_factory.mktemp("single") / "sdxl"
    sdxl.save_pretrained(folder)
    return folder


@pytest.fixture
def write(base, tmp_path):
    """``write(tensors, *components)``: the weights with a checkpoint of these tensors."""

    def written(tensors, *components):
        file = tmp_path / "file.safetensors"
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, file)
        return Weights(str(base), checkpoint=str(file), components=components)

    return written


def same(module, expected):
    ours, theirs = module.state_dict(), expected.state_dict()
    assert ours.keys() == theirs.keys()
    for name, values in ours.items():
        assert torch.equal(values, theirs[name]), name


def test_a_whole_file_of_sdxl_gives_the_weights_of_the_folder_bit_for_bit(write, sdxl, base):
    weights = write(original_sdxl(sdxl), *EVERY)
    loaded, plain = (
        load_pipeline(weights, dtype="bfloat16"),
        load_pipeline(Weights(str(base)), dtype="bfloat16"),
    )
    for component in EVERY:
        same(getattr(loaded, component), getattr(plain, component))


def test_only_what_is_computed_is_in_host_memory_before(write, sdxl):
    with reading_later():
        loaded = load_pipeline(write(original_sdxl(sdxl), *EVERY))
    read = [
        name
        for component in EVERY
        for name, parameter in getattr(loaded, component).named_parameters()
        if not isinstance(parameter, UnreadWeight)
    ]
    assert "text_projection.weight" in read  # it is transposed
    assert all("mid_block.attentions.0" in key for key in {*read} - {"text_projection.weight"})


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
def test_a_file_may_hold_the_denoiser_alone(write, sdxl, prefix):
    tensors = {f"{prefix}{name}": tensor for name, tensor in original_unet(sdxl.unet).items()}
    same(load_pipeline(write(tensors, "unet")).unet, sdxl.unet)


@pytest.mark.parametrize("component", ["unet", "vae"])
def test_a_file_may_have_the_names_of_diffusers(write, sdxl, component):
    module = getattr(sdxl, component)
    same(getattr(load_pipeline(write(module.state_dict(), component)), component), module)


def test_components_that_a_file_replaces_need_no_weights_in_the_folder(write, sdxl, base, tmp_path):
    folder = tmp_path / "without"
    folder.mkdir()
    for path in base.rglob("*"):
        if (path.is_file() and path.parent.name != "unet") or path.name == "config.json":
            (folder / path.relative_to(base)).parent.mkdir(exist_ok=True)
            (folder / path.relative_to(base)).write_bytes(path.read_bytes())
    weights = write(original_unet(sdxl.unet), "unet")
    loaded = load_pipeline(
        Weights(str(folder), checkpoint=weights.checkpoint, components=("unet",))
    )
    same(loaded.unet, sdxl.unet)
    same(loaded.vae, sdxl.vae)


def test_text_encoders_of_flux_in_comfyuis_layout_are_those_of_the_folder(tmp_path):
    pipeline = tiny_flux()
    pipeline.save_pretrained(tmp_path / "flux")
    clip, t5 = pipeline.text_encoder.state_dict(), pipeline.text_encoder_2.state_dict()
    begin = "clip_l.transformer.text_model."
    tensors = {begin + name.removeprefix("text_model."): tensor for name, tensor in clip.items()}
    tensors |= {f"t5xxl.transformer.{n}": v for n, v in t5.items() if "embed_tokens" not in n}
    file = tmp_path / "file.safetensors"
    save_file({f"text_encoders.{name}": tensor for name, tensor in tensors.items()}, file)
    both = ("text_encoder", "text_encoder_2")
    weights = Weights(str(tmp_path / "flux"), checkpoint=str(file), components=both)
    loaded = load_pipeline(weights, dtype="float16")
    plain = load_pipeline(Weights(str(tmp_path / "flux")), dtype="float16")
    for component in both:
        same(getattr(loaded, component), getattr(plain, component))


# FP8.


def in_fp8(tensors, *, scale_of=None, end=""):
    """Tensors with linear weights in FP8, and their scales."""
    converted = {}
    for name, values in tensors.items():
        if values.dim() != 2 or not name.endswith(".weight"):
            converted[name] = values
            continue
        scale = scale_of(values) / FP8_MAX if scale_of else torch.tensor(1.0)
        converted[name] = (values / scale).to(FP8)
        if scale_of:
            converted[name.removesuffix(".weight") + end] = scale
    return converted


@pytest.mark.long
@pytest.mark.parametrize(
    ("scale_of", "end", "notes"),
    [
        (lambda values: values.abs().max(), ".scale_weight", {"scaled_fp8": torch.zeros(2)}),
        (lambda values: values.abs().amax(1, keepdim=True), ".weight_scale", {}),
    ],
)
def test_scaled_fp8_gives_the_weights_within_its_precision(write, sdxl, scale_of, end, notes):
    tensors = original_unet(sdxl.unet)
    tensors = {f"model.diffusion_model.{name}": tensor for name, tensor in tensors.items()}
    weights = write(in_fp8(tensors, scale_of=scale_of, end=end) | notes, "unet")
    for name, values in load_pipeline(weights).unet.state_dict().items():
        expected = sdxl.unet.state_dict()[name]
        least = float(expected.abs().max()) / FP8_MAX  # smaller values have fewer bits
        torch.testing.assert_close(values, expected, rtol=FP8_ERROR, atol=least)


def test_fp8_without_scales_is_read_as_it_is(write, sdxl):
    tensors = in_fp8(original_unet(sdxl.unet))
    with reading_later():
        later = load_pipeline(write(tensors, "unet")).unet
    assert all(isinstance(parameter, UnreadWeight) for parameter in later.parameters())
    loaded = load_pipeline(write(tensors, "unet")).unet.state_dict()
    name = "time_embedding.linear_1.weight"
    assert torch.equal(loaded[name], sdxl.unet.state_dict()[name].to(FP8).float())


def test_the_size_of_weights_counts_what_they_take_when_they_are_loaded(write, sdxl, base):
    plain = weights_bytes(Weights(str(base)), {"default": "bfloat16"}, select)
    with_file = write(in_fp8(original_unet(sdxl.unet)), "unet")
    assert weights_bytes(with_file, {"default": "bfloat16"}, select) == plain


def test_so_does_the_size_of_a_folder_of_fp8(sdxl, base, tmp_path):
    folder = tmp_path / "sdxl"
    shutil.copytree(base, folder)
    (file,) = (folder / "unet").glob("*.safetensors")
    save_file(in_fp8(sdxl.unet.state_dict()), file)
    plain, fp8 = (
        weights_bytes(Weights(str(path)), {"default": "bfloat16"}, select)
        for path in (base, folder)
    )
    assert fp8 == plain
    assert load_pipeline(Weights(str(folder))).unet.dtype == torch.float32


# Other models.


def sparse_file(file: Path, shapes):
    """A file of bfloat16 zeros that takes no space. Returns the place of each tensor."""
    header, at = {}, 0
    for name, shape in shapes.items():
        end = at + 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [at, end]}
        at = end
    text = json.dumps(header).encode()
    with file.open("wb") as opened:
        opened.write(len(text).to_bytes(8, "little") + text)
        opened.truncate(8 + len(text) + at)
    return {name: entry["data_offsets"][0] + 8 + len(text) for name, entry in header.items()}


def flux_shapes():
    """FLUX.1 with one block of each kind."""
    linears = {
        "img_in": (WIDTH, 64), "txt_in": (WIDTH, 4096), "final_layer.linear": (64, WIDTH),
        "final_layer.adaLN_modulation.1": (2 * WIDTH, WIDTH),
        "single_blocks.0.modulation.lin": (3 * WIDTH, WIDTH),
        "single_blocks.0.linear1": (7 * WIDTH, WIDTH),
        "single_blocks.0.linear2": (WIDTH, 5 * WIDTH),
    }  # fmt: skip
    for name, width in (("time_in", 256), ("vector_in", 768)):
        linears |= {f"{name}.in_layer": (WIDTH, width), f"{name}.out_layer": (WIDTH, WIDTH)}
    norms = ["single_blocks.0.norm"]
    for block in ("double_blocks.0.img_", "double_blocks.0.txt_"):
        linears |= {f"{block}mod.lin": (6 * WIDTH, WIDTH), f"{block}attn.qkv": (3 * WIDTH, WIDTH)}
        linears |= {f"{block}attn.proj": (WIDTH, WIDTH), f"{block}mlp.0": (4 * WIDTH, WIDTH)}
        linears |= {f"{block}mlp.2": (WIDTH, 4 * WIDTH)}
        norms.append(f"{block}attn.norm")
    shapes = {f"{name}.weight": [*shape] for name, shape in linears.items()}
    shapes |= {f"{name}.bias": [shape[0]] for name, shape in linears.items()}
    return shapes | {
        f"{name}.{role}_norm.scale": [128] for name in norms for role in ("query", "key")
    }


@pytest.fixture
def flux(tmp_path):
    """Folder with the settings of that FLUX.1, and its model_index.json."""
    config = {
        "_class_name": "FluxTransformer2DModel", "in_channels": 64, "num_layers": 1,
        "num_single_layers": 1, "guidance_embeds": False,
    }  # fmt: skip
    (tmp_path / "transformer").mkdir()
    (tmp_path / "transformer/config.json").write_text(json.dumps(config))
    index = {"_class_name": "FluxPipeline", "transformer": ["diffusers", "FluxTransformer2DModel"]}
    return tmp_path, index


def read(folder, index, file, kind):
    weights = Weights(str(folder), checkpoint=str(file), components=("transformer",))
    dtypes = {"default": torch.bfloat16}
    return read_checkpoint(weights, folder, index, {"transformer": kind}, dtypes)["transformer"]


def test_fused_weights_of_flux_are_read_from_their_rows_in_the_file(flux):
    folder, index = flux
    places = sparse_file(folder / "flux.safetensors", flux_shapes())
    transformer = read(folder, index, folder / "flux.safetensors", FluxTransformer2DModel)
    block, fused = (
        transformer.single_transformer_blocks[0],
        places["single_blocks.0.linear1.weight"],
    )
    parts = (block.attn.to_q, block.attn.to_k, block.attn.to_v, block.proj_mlp)
    rows = 2 * WIDTH * WIDTH  # bytes of a square part
    assert [part.weight.stored.begin - fused for part in parts] == [0, rows, 2 * rows, 3 * rows]
    assert [part.weight.stored.size for part in parts] == [rows, rows, rows, 4 * rows]
    read_now = [n for n, p in transformer.named_parameters() if not isinstance(p, UnreadWeight)]
    assert read_now == ["norm_out.linear.weight", "norm_out.linear.bias"]  # their halves swap


def test_modules_that_a_class_keeps_in_float32_stay_in_float32(tmp_path):
    sides = ("attention_head_dim", "in_channels", "out_channels", "text_dim", "freq_dim", "ffn_dim")
    config = {"num_attention_heads": 2, "num_layers": 1} | dict.fromkeys(sides, 12)
    transformer = WanTransformer3DModel(**config)
    transformer.save_pretrained(tmp_path / "transformer")
    index = {"transformer": ["diffusers", "WanTransformer3DModel"]}
    file = tmp_path / "transformer/diffusion_pytorch_model.safetensors"
    ours = read(tmp_path, index, file, WanTransformer3DModel)
    theirs = WanTransformer3DModel.from_pretrained(tmp_path / "transformer", dtype=torch.bfloat16)
    types = {name: parameter.dtype for name, parameter in theirs.named_parameters()}
    assert {name: parameter.dtype for name, parameter in ours.named_parameters()} == types
    assert {*types.values()} == {torch.float32, torch.bfloat16}


# What cannot be read.


def refusal(weights):
    with pytest.raises(WeightsUnavailable) as caught:
        load_pipeline(weights)
    return str(caught.value)


def test_a_file_of_another_model_is_refused_with_what_it_is(write):
    shapes = {name: torch.zeros(1) for name in flux_shapes()}
    message = refusal(write(shapes, "unet"))
    assert "does not fit the unet of" in message
    assert "UNet2DConditionModel" in message
    assert "black-forest-labs/FLUX.1" in message


def test_a_file_of_another_size_is_refused_with_the_tensor(write, sdxl):
    tensors = original_unet(sdxl.unet)
    tensors["time_embed.0.weight"] = torch.zeros(3, 3)
    assert "time_embedding.linear_1.weight expected shape" in refusal(write(tensors, "unet"))


def test_a_file_that_lacks_tensors_is_refused_with_their_names(write, sdxl):
    tensors = original_unet(sdxl.unet)
    del tensors["middle_block.0.in_layers.0.bias"]
    assert "it has no mid_block.resnets.0.norm1.bias" in refusal(write(tensors, "unet"))


def test_a_file_without_a_component_is_refused_with_what_it_holds(write, sdxl):
    tensors = {
        f"model.diffusion_model.{n}": tensor for n, tensor in original_unet(sdxl.unet).items()
    }
    assert "has no tensors of vae: it holds unet" in refusal(write(tensors, "unet", "vae"))


def test_another_quantisation_is_refused_with_the_tensor(write):
    message = refusal(write({"input_blocks.0.weight": torch.zeros(2, dtype=torch.uint8)}, "unet"))
    assert "quantised in a way that is not read (input_blocks.0.weight is U8)" in message


def test_fp8_whose_scales_are_gone_is_refused(write, sdxl):
    tensors = in_fp8(original_unet(sdxl.unet)) | {"scaled_fp8": torch.zeros(2)}
    assert "its FP8 weights have scales" in refusal(write(tensors, "unet"))


def test_another_format_is_refused_by_its_name(base, tmp_path):
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"PK\3\4xxxx")
    assert "a pickle" in refusal(Weights(str(base), checkpoint=str(file), components=("unet",)))


def test_a_missing_file_is_named(base):
    weights = Weights(str(base), checkpoint="/none/x.safetensors", components=("unet",))
    assert "/none/x.safetensors cannot be loaded" in refusal(weights)
