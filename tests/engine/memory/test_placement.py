"""Weights by recipe: what is where, and that the images are the same.

Without a GPU the device is the CPU: the hooks are all there, and what they move stays where it is.
"""

import copy
import gc
from types import SimpleNamespace

import pytest
import torch
from diffusers import StableDiffusionXLImg2ImgPipeline

from deployments.engine.accelerator.cpu import Cpu
from deployments.engine.engine import Engine
from deployments.engine.interception.pipeline import view_of
from deployments.engine.memory.placement import DeviceSlot, bytes_of, placed_by
from serve_app.domain.endpoint import Recipe
from serve_app.domain.errors import Misconfigured
from tests.engine.gate import Gate
from tests.engine.tiny import tiny_flux, tiny_sdxl

pytestmark = [
    pytest.mark.engine,
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]

PLAIN = Recipe(80, "float32")
COMPONENTS = Recipe(24, "float32", "components")  # all of them wait
BLOCKS = Recipe(12, "float32", "blocks", ("vae",))
CUDA = pytest.param(
    "cuda",
    marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU of NVIDIA's"),
)


def wish(prompt, seed):
    return {
        "prompt": prompt,
        "width": 32,
        "height": 32,
        "num_inference_steps": 2,
        "generator": torch.Generator("cpu").manual_seed(seed),
        "output_type": "pt",
    }


def images(pipeline, recipe, device="cpu"):
    """Two generations that interleave."""
    with Engine(device=device, threads=1, max_batch=1, max_generations=2) as engine:
        engine.add("it", pipeline, recipe)
        generations = [
            engine.submit(pipeline="it", **wish(prompt, seed))
            for prompt, seed in (("a red circle", 1), ("a blue square", 2))
        ]
        return torch.cat([generation.result(60).images.cpu() for generation in generations])


class Halves:
    """Steps with one of two denoisers, as videos at an early or a late step do."""

    def __init__(self):
        self.transformer, self.transformer_2 = torch.nn.Linear(4, 4), torch.nn.Linear(4, 4)

    def __call__(self, start, half, steps, num_inference_steps=0):
        latents = start
        for _ in range(steps):
            latents = getattr(self, half)(latents)
        return latents


def test_generations_in_two_halves_of_a_model_do_not_swap_them_at_each_step(monkeypatch):
    """One that is long due has half of the device, in turns of several steps."""
    moved, admit = [], DeviceSlot.admit

    def admitted(slot, module):
        moved.append(module) if slot.is_taken_by_another(module) else None
        admit(slot, module)

    monkeypatch.setattr(DeviceSlot, "admit", admitted)
    pipeline, seconds = Halves(), iter(range(10**6))
    with Engine(threads=1, monotonic=lambda: float(next(seconds))) as engine:
        engine.add("it", pipeline, COMPONENTS)
        gate = Gate(engine)
        calls = [{"half": "transformer", "steps": 40}, {"half": "transformer_2", "steps": 30}]
        calls[1]["num_inference_steps"] = 30  # of the other one it is not known; it is soon due
        running = [engine.submit(pipeline="it", start=torch.ones(1, 4), **call) for call in calls]
        gate.open()
        for generation in running:
            generation.result(60)
    assert 2 <= len(moved) <= 10


@pytest.mark.parametrize("device", ["cpu", CUDA])
@pytest.mark.parametrize("make", [tiny_flux, tiny_sdxl])
def test_wherever_the_weights_wait_the_images_are_the_same(make, device):
    plain = images(make(), None, device)
    for recipe in (COMPONENTS, BLOCKS):
        assert torch.equal(images(make(), recipe, device), plain), recipe


@pytest.mark.long
@pytest.mark.parametrize("recipe", [COMPONENTS, BLOCKS])
def test_views_are_over_weights_that_wait(recipe):
    """Also with a copy of the denoiser in them, as for inpainting."""

    def redrawn(recipe):
        pipeline = tiny_sdxl()
        with Engine(threads=1) as engine:
            engine.add("it", pipeline, recipe)
            view = view_of(pipeline, StableDiffusionXLImg2ImgPipeline)
            view.unet = copy.copy(view.unet)
            source = {"image": torch.full((1, 3, 32, 32), 0.5), "strength": 0.6}
            fields = {**wish("a red circle", 1), **source, "num_inference_steps": 4}
            del fields["width"], fields["height"]
            return engine.submit(pipeline="it", view=view, **fields).result(60).images

    assert torch.equal(redrawn(recipe), redrawn(None))


@pytest.mark.long
@pytest.mark.parametrize("offload", ["none", "blocks"])
@pytest.mark.parametrize("device", ["cpu", CUDA])
def test_float8_computes_with_the_rounded_weights(offload, device):
    stored = tiny_flux()
    image = images(stored, Recipe(12, "float8", offload, ("vae",)), device)
    rounded = tiny_flux()
    for name in ("transformer", "text_encoder", "text_encoder_2"):
        small = getattr(stored, name).state_dict()
        with torch.no_grad():
            for key, tensor in getattr(rounded, name).state_dict().items():
                if small[key].dtype is torch.float8_e4m3fn:
                    tensor.copy_(tensor.to(torch.float8_e4m3fn).to(tensor.dtype))
    assert torch.equal(image, images(rounded, None, device))
    assert not torch.equal(image, images(tiny_flux(), None, device))


def test_float8_spares_norms_embeddings_autoencoders_and_what_code_looks_at():
    pipeline = tiny_flux()
    before = bytes_of([pipeline.transformer])
    placed_by(Recipe(12, "float8"), pipeline)
    assert bytes_of([pipeline.transformer]) < 0.5 * before
    assert {parameter.dtype for parameter in pipeline.vae.parameters()} == {torch.float32}
    assert pipeline.transformer.dtype is pipeline.text_encoder.dtype is torch.float32
    t5 = tiny_flux().text_encoder_2
    placed_by(Recipe(12, "float8"), SimpleNamespace(text_encoder=t5))
    assert t5.shared.weight.dtype is torch.float32
    assert t5.encoder.block[0].layer[1].DenseReluDense.wo.weight.dtype is torch.float32
    assert t5.encoder.block[0].layer[0].SelfAttention.q.weight.dtype is torch.float8_e4m3fn
    tokens = torch.arange(2, 8)[None]
    with torch.no_grad():
        small, full = (encoder(tokens)[0] for encoder in (t5, tiny_flux().text_encoder_2))
    assert 0 < (small - full).abs().max() < 0.1 * full.abs().max()


def test_what_counts_is_what_is_on_the_device():
    pipeline = tiny_flux()
    parts = {name: bytes_of([getattr(pipeline, name)]) for name in ("transformer", "vae")}
    encoders = [bytes_of([pipeline.text_encoder]), bytes_of([pipeline.text_encoder_2])]
    everything = sum(parts.values()) + sum(encoders)
    assert placed_by(PLAIN, pipeline).device_bytes == everything
    hot = Recipe(24, "float32", "components", ("transformer", "vae"))
    assert placed_by(hot, pipeline).device_bytes == sum(parts.values()) + max(encoders)
    blocks = [
        *pipeline.transformer.transformer_blocks,
        *pipeline.transformer.single_transformer_blocks,
    ]
    most = max(bytes_of([block]) for block in blocks)
    rest = parts["transformer"] - bytes_of(blocks)
    passing = rest + min(2 * most, bytes_of(blocks))
    assert placed_by(BLOCKS, pipeline).device_bytes == parts["vae"] + passing + max(encoders)


def test_a_recipe_that_names_a_component_that_is_not_there_is_refused_in_words():
    with pytest.raises(Misconfigured, match="unet on the device, but FluxPipeline has only: "):
        placed_by(Recipe(24, "float32", "components", ("unet",)), tiny_flux())


class OtherMemory(DeviceSlot):
    """On the CPU, a device of its own all the same: what comes in is a copy."""

    def copied_in(self, tensor):
        return tensor.clone()


def test_one_component_at_a_time_is_on_the_device_and_goes_back_as_it_came():
    def places(module):
        return [tensor.data_ptr() for tensor in (*module.parameters(), *module.buffers())]

    first, two = torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2)
    at_home = {module: places(module) for module in (first, two)}
    berth = OtherMemory(Cpu())
    berth.admit(first)
    assert not set(places(first)) & set(at_home[first])
    berth.admit(two)
    assert places(first) == at_home[first]
    assert not set(places(two)) & set(at_home[two])


def test_a_component_that_does_not_fit_in_is_not_left_halfway():
    class Full(DeviceSlot):
        def copied_in(self, tensor):
            if tensor.ndim == 1:
                raise torch.OutOfMemoryError("No room.")
            return tensor.clone()

    module = torch.nn.Linear(2, 2)
    at_home = [parameter.data_ptr() for parameter in module.parameters()]
    with pytest.raises(torch.OutOfMemoryError):
        Full(Cpu()).admit(module)
    assert [parameter.data_ptr() for parameter in module.parameters()] == at_home


def test_what_was_cast_on_the_device_stays_cast():
    """As pipelines do with an autoencoder that would overflow in 16 bits."""
    vae, other = torch.nn.Linear(2, 2).half(), torch.nn.Linear(2, 2)
    berth = DeviceSlot(Cpu())
    berth.admit(vae)
    vae.float()
    berth.admit(other)
    assert vae.weight.dtype is torch.float32


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU of NVIDIA's")
@pytest.mark.parametrize("recipe", [COMPONENTS, BLOCKS])
def test_on_a_gpu_no_more_weights_are_there_than_the_placement_says(recipe):
    pipeline = tiny_flux()
    limit = placed_by(recipe, pipeline).device_bytes
    images(pipeline, recipe, "cuda")
    gc.collect()
    there = [
        tensor
        for module in vars(pipeline).values()
        if isinstance(module, torch.nn.Module)
        for tensor in (*module.parameters(), *module.buffers())
        if tensor.is_cuda
    ]
    assert sum(tensor.numel() * tensor.element_size() for tensor in there) <= limit
