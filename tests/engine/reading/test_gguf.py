"""GGUF files give the values that the gguf package gives."""

import math

import numpy as np
import pytest
import torch
from diffusers import FluxTransformer2DModel
from gguf import GGMLQuantizationType, GGUFWriter, dequantize

from deployments.engine.accelerator.cpu import Cpu
from deployments.engine.loading.loader import load_pipeline, weights_bytes
from deployments.engine.memory.placement import placed_by
from deployments.engine.reading import dequantization
from deployments.engine.reading import reader as reader_module
from deployments.engine.reading.headers import WeightFile
from deployments.engine.reading.reader import Home, WeightReader
from deployments.engine.reading.unread import UnreadWeight, cast_by, giving_values, reading_later
from serve_app.domain.endpoint import Recipe, Weights
from serve_app.domain.errors import WeightsUnavailable
from serve_app.domain.gguf import QUANTIZED, TYPES
from tests import gguf_files
from tests.engine.original_layout import original_unet
from tests.engine.reading.test_single_file import WIDTH, flux, flux_shapes, read, refusal, same
from tests.engine.tiny import tiny_sdxl
from tests.engine.tiny_qwen import tiny_z_image
from tests.fakes.accelerator import FakeAccelerator
from tests.gguf_files import random_blocks, write_stored
from tests.samples import sample_params
from weights.selection import select

pytestmark = [
    pytest.mark.engine,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]

__all__ = ["flux"]  # a fixture

ROWS = 30


@pytest.fixture
def every_type(tmp_path, monkeypatch):
    """File with a tensor of each type of blocks, of several pieces and steps, and its values."""
    monkeypatch.setattr(reader_module, "PIECE_BYTES", 8192)
    monkeypatch.setattr(dequantization, "STEP", 2048)
    kinds = {name: GGMLQuantizationType[name] for name in QUANTIZED}
    stored = {name: (random_blocks(name, ROWS, 3), kind) for name, kind in kinds.items()}
    write_stored(tmp_path / "every.gguf", stored)
    values = {n: torch.from_numpy(dequantize(data, kind)) for n, (data, kind) in stored.items()}
    return tmp_path / "every.gguf", values


def read_to(accelerator, home, path, *casts):
    module = torch.nn.Module()
    for name, stored in WeightFile(path).header().tensors.items():
        weight = UnreadWeight(stored)
        for dtype in casts:
            weight = weight.to(dtype)
        module.register_buffer(name, weight)
    WeightReader(accelerator).read([(module, home)])
    return dict(module.named_buffers())


@pytest.mark.parametrize("home", Home)
@pytest.mark.parametrize("casts", [(), (torch.bfloat16,), (torch.bfloat16, torch.float8_e4m3fn)])
@pytest.mark.parametrize("make", [Cpu, FakeAccelerator])
def test_values_of_every_type_are_those_of_the_gguf_package(every_type, make, home, casts):
    path, values = every_type
    tensors = read_to(make(), home, path, *casts)
    for name, value in values.items():
        expected = cast_by(casts, value)
        assert tensors[name].dtype == expected.dtype
        ours, theirs = (tensor.view(torch.uint8) for tensor in (tensors[name], expected))
        assert torch.equal(ours.cpu(), theirs), name


def test_parts_are_read_from_their_blocks_or_else_from_all_values(tmp_path):
    blocks = random_blocks("Q4_0", 9, 1), GGMLQuantizationType.Q4_0
    shape = (8, 4, 3, 3)  # a row ends inside a block
    write_stored(tmp_path / "x.gguf", {"rows": blocks, "shaped": blocks}, {"shaped": shape})
    file = WeightFile(tmp_path / "x.gguf")
    rows, shaped = (UnreadWeight(tensor) for tensor in file.header().tensors.values())
    values = torch.from_numpy(dequantize(*blocks))
    with giving_values(file):
        parts = rows.split(3)
        assert all(isinstance(part, UnreadWeight) for part in parts)
        assert torch.equal(torch.cat(parts), values)
        parts = shaped.split(5)
        assert [type(part) for part in parts] == [torch.Tensor] * 2
        assert torch.equal(torch.cat(parts), values.view(shape))
        assert torch.equal(shaped[3:], values.view(shape)[3:])


# Pipelines.


def write_gguf(file, tensors, *arguments):
    meant = gguf_files.write_gguf(file, {n: e.detach() for n, e in tensors.items()}, *arguments)
    return {name: torch.from_numpy(values) for name, values in meant.items()}


@pytest.fixture(scope="module")
def sdxl(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gguf") / "sdxl"
    pipeline = tiny_sdxl()
    pipeline.save_pretrained(folder)
    return pipeline, folder


@pytest.fixture(scope="module")
def z_image(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gguf") / "z-image"
    pipeline = tiny_z_image()
    pipeline.save_pretrained(folder)
    return pipeline, folder


def original_z_image(transformer):
    """Its weights with the names of the original repository, as ComfyUI has them."""
    tensors = dict(transformer.state_dict())
    for name in [key for key in tensors if key.endswith("attention.to_q.weight")]:
        parts = (tensors.pop(name.replace("to_q", f"to_{letter}")) for letter in "qkv")
        tensors[name.replace("to_q", "qkv")] = torch.cat([*parts])
    renamed = (
        ("all_final_layer.2-1.", "final_layer."), ("all_x_embedder.2-1.", "x_embedder."),
        ("attention.to_out.0.", "attention.out."), ("attention.norm_", "attention."),
        ("attention.k.", "attention.k_norm."), ("attention.q.", "attention.q_norm."),
    )  # fmt: skip
    stored = {}
    for name, values in tensors.items():
        original = name
        for new, old in renamed:
            original = original.replace(new, old)
        stored[original] = values
    return stored


def image_of(pipeline):
    generator = torch.Generator().manual_seed(0)
    size = {"height": 32, "width": 32, "num_inference_steps": 2, "output_type": "pt"}
    return pipeline("a red circle", generator=generator, **size).images


@pytest.mark.parametrize(
    "kind", sample_params(["F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"], "F16", "Q4_0")
)
def test_images_are_those_of_the_dequantized_weights_bit_for_bit(z_image, tmp_path, kind):
    pipeline, folder = z_image
    meant = write_gguf(tmp_path / "x.gguf", original_z_image(pipeline.transformer), kind)
    weights = Weights(str(folder), checkpoint=str(tmp_path / "x.gguf"), components=("transformer",))
    ours, theirs = load_pipeline(weights), load_pipeline(Weights(str(folder)))
    expected = original_z_image(theirs.transformer)  # it shares memory, but for fused weights
    for name, values in expected.items():
        values.copy_(meant[name])
    for name, values in meant.items():
        if ".qkv." in name:
            for letter, part in zip("qkv", values.chunk(3), strict=True):
                theirs.transformer.state_dict()[name.replace("qkv", f"to_{letter}")].copy_(part)
    same(ours.transformer, theirs.transformer)
    assert torch.equal(image_of(ours), image_of(theirs))
    assert not torch.equal(image_of(ours), image_of(pipeline))


def test_nothing_is_in_host_memory_before_it_is_placed(z_image, tmp_path):
    pipeline, folder = z_image
    write_gguf(tmp_path / "x.gguf", original_z_image(pipeline.transformer), "Q8_0")
    weights = Weights(str(folder), checkpoint=str(tmp_path / "x.gguf"), components=("transformer",))
    with reading_later():
        loaded = load_pipeline(weights, dtype="bfloat16")
    assert all(isinstance(parameter, UnreadWeight) for parameter in loaded.transformer.parameters())


def test_a_recipe_makes_them_smaller_on_the_device(z_image, tmp_path):
    pipeline, folder = z_image
    write_gguf(tmp_path / "x.gguf", original_z_image(pipeline.transformer), "Q8_0")
    weights = Weights(str(folder), checkpoint=str(tmp_path / "x.gguf"), components=("transformer",))
    with reading_later():
        small = load_pipeline(weights, dtype="bfloat16")
    placed_by(Recipe(memory_gb=1, precision="float8"), small).apply(FakeAccelerator())
    plain = load_pipeline(weights, dtype="bfloat16").transformer.layers[0].attention.to_q.weight
    stored = small.transformer.layers[0].attention.to_q.weight
    assert stored.dtype == torch.float8_e4m3fn
    assert torch.equal(stored.cpu().float(), plain.to(torch.float8_e4m3fn).float())


def test_the_names_of_diffusers_and_a_prefix_are_read(z_image, sdxl, tmp_path):
    pipeline, folder = z_image
    meant = write_gguf(tmp_path / "x.gguf", pipeline.transformer.state_dict(), "Q5_1")
    weights = Weights(str(folder), checkpoint=str(tmp_path / "x.gguf"), components=("transformer",))
    for name, values in load_pipeline(weights).transformer.state_dict().items():
        assert torch.equal(values, meant[name]), name
    pipeline, folder = sdxl
    tensors = {f"model.diffusion_model.{n}": e for n, e in original_unet(pipeline.unet).items()}
    write_gguf(tmp_path / "y.gguf", tensors)
    weights = Weights(str(folder), checkpoint=str(tmp_path / "y.gguf"), components=("unet",))
    same(load_pipeline(weights).unet, pipeline.unet)


def test_tensors_that_were_stored_in_rows_of_another_length_have_their_shape(sdxl, tmp_path):
    pipeline, folder = sdxl
    tensors = original_unet(pipeline.unet)
    convolutions = {n: e.shape for n, e in tensors.items() if e.dim() == 4 and e.numel() % 256 == 0}
    assert convolutions
    flat = {n: e.reshape(-1, 256) if n in convolutions else e for n, e in tensors.items()}
    meant = write_gguf(tmp_path / "x.gguf", flat, "Q8_0", convolutions)
    weights = Weights(str(folder), checkpoint=str(tmp_path / "x.gguf"), components=("unet",))
    first = meant["input_blocks.1.0.in_layers.2.weight"].view(32, 32, 3, 3)
    assert torch.equal(load_pipeline(weights).unet.down_blocks[0].resnets[0].conv1.weight, first)


def test_the_size_of_weights_is_that_of_the_dtype_they_are_loaded_in(z_image, tmp_path):
    pipeline, folder = z_image
    write_gguf(tmp_path / "x.gguf", original_z_image(pipeline.transformer), "Q4_0")
    weights = Weights(str(folder), checkpoint=str(tmp_path / "x.gguf"), components=("transformer",))
    for dtype in ("bfloat16", "float32"):
        plain = weights_bytes(Weights(str(folder)), {"default": dtype}, select)
        assert weights_bytes(weights, {"default": dtype}, select) == plain


def test_fused_weights_of_flux_are_read_from_their_blocks_in_the_file(flux):
    folder, index = flux
    file, shapes = folder / "flux.gguf", flux_shapes()
    writer = GGUFWriter(file, "flux")
    kinds = {
        n: "Q4_K" if len(dimensions) > 1 and dimensions[-1] % 256 == 0 else "F32"
        for n, dimensions in shapes.items()
    }
    sizes = {gguf_type.name: gguf_type for gguf_type in TYPES.values()}
    for name, shape in shapes.items():
        kind = sizes[kinds[name]]
        size = math.prod(shape) // kind.values * kind.size
        own = GGMLQuantizationType[kind.name]
        writer.add_tensor_info(name, shape, np.dtype(np.float32), size, own)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    with file.open("r+b") as opened:
        opened.truncate(file.stat().st_size + 4 * sum(map(math.prod, shapes.values())))
    transformer = read(folder, index, file, FluxTransformer2DModel)
    fused = WeightFile(file).header().tensors["single_blocks.0.linear1.weight"]
    block = transformer.single_transformer_blocks[0]
    parts = (block.attn.to_q, block.attn.to_k, block.attn.to_v, block.proj_mlp)
    rows = WIDTH * WIDTH // 256 * 144  # bytes of a square part
    begins = [part.weight.stored.begin - fused.begin for part in parts]
    assert begins == [0, rows, 2 * rows, 3 * rows]
    assert [part.weight.stored.size for part in parts] == [rows, rows, rows, 4 * rows]
    assert {part.weight.dtype for part in parts} == {torch.bfloat16}


# What cannot be read.


def test_a_damaged_file_is_refused_by_its_name(z_image, tmp_path):
    pipeline, folder = z_image
    file = tmp_path / "x.gguf"
    write_gguf(file, original_z_image(pipeline.transformer), "Q8_0")
    file.write_bytes(file.read_bytes()[:-1000])
    weights = Weights(str(folder), checkpoint=str(file), components=("transformer",))
    message = refusal(weights)
    assert f"{file} cannot be loaded" in message
    with pytest.raises(WeightsUnavailable, match=r"x\.gguf cannot be loaded"):
        weights_bytes(weights, {"default": "bfloat16"}, select)


def test_a_language_model_in_the_layout_of_llama_is_refused(z_image, tmp_path):
    _, folder = z_image
    names = ("token_embd.weight", "blk.0.attn_q.weight", "output_norm.weight")
    write_gguf(tmp_path / "x.gguf", {name: torch.zeros(1, 32) for name in names}, "Q8_0")
    file = str(tmp_path / "x.gguf")
    weights = Weights(str(folder), checkpoint=file, components=("text_encoder",))
    assert f"{file} is a language model with the names of llama.cpp" in refusal(weights)


def test_a_file_of_another_model_is_refused_with_what_it_is(z_image, tmp_path):
    _, folder = z_image
    shapes = {name: torch.zeros(1) for name in flux_shapes()}
    write_gguf(tmp_path / "x.gguf", shapes)
    file = str(tmp_path / "x.gguf")
    message = refusal(Weights(str(folder), checkpoint=file, components=("transformer",)))
    assert "does not fit the transformer of" in message
    assert "black-forest-labs/FLUX.1" in message
