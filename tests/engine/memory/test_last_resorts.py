"""What is tried before a call that does not fit fails: waiting components leave, then tiles."""

import pytest
import torch

from deployments.engine.engine import Engine
from deployments.engine.loop.options import GenerationOptions
from deployments.engine.memory.placement import DeviceSlot, vacate_slots
from serve_app.domain.endpoint import Recipe
from serve_app.domain.errors import OutOfMemory
from tests.engine.calls import call, run_without_engine
from tests.engine.tiny import tiny_flux
from tests.fakes.accelerator import FakeAccelerator

pytestmark = pytest.mark.engine

HOT_VAE = Recipe(24, "float32", "components", ("vae",))


def full_while(pipeline, occupied, error=None):
    """Let the autoencoder's decoder run out of memory while ``occupied`` returns True."""
    decode = pipeline.vae.decoder.forward
    attempts = []

    def short(*arguments, **keywords):
        attempts.append(occupied())
        if attempts[-1]:
            raise error or torch.OutOfMemoryError("There is no room.")
        return decode(*arguments, **keywords)

    pipeline.vae.decoder.forward = short
    return attempts


def slot_of(pipeline):
    return pipeline.transformer._hf_hook.slot


def made_by(pipeline, recipe, device="cpu", **options):
    with Engine(device=device, threads=1, **options) as engine:
        engine.add("it", pipeline, recipe)
        return engine.submit(pipeline="it", **call()).result(60).images


@pytest.mark.parametrize("device", ["cpu", "fake"])
def test_a_component_that_only_waits_to_be_called_again_leaves_for_a_decode(device):
    plain, pipeline = run_without_engine(tiny_flux()), tiny_flux()
    attempts = full_while(pipeline, lambda: slot_of(pipeline)._guest is not None)
    accelerator = FakeAccelerator() if device == "fake" else device
    assert torch.equal(made_by(pipeline, HOT_VAE, accelerator), plain)
    assert attempts == [True, False]


def test_what_left_is_as_it_was_and_comes_back_when_called():
    pipeline = tiny_flux()
    with Engine(device=FakeAccelerator(), threads=1) as engine:
        engine.add("it", pipeline, HOT_VAE)
        images = [engine.submit(pipeline="it", **call()).result(60).images]
        slot = slot_of(pipeline)
        assert slot._guest is pipeline.transformer
        vacate_slots([pipeline])
        assert slot._guest is None
        images.append(engine.submit(pipeline="it", **call()).result(60).images)
    assert torch.equal(*images)
    assert isinstance(slot, DeviceSlot)


def tiles(pipeline, side):
    """Let the autoencoder's tiles have that many latents a side."""
    pipeline.vae.tile_latent_min_size = side
    halvings = len(pipeline.vae.config.block_out_channels) - 1
    pipeline.vae.tile_sample_min_size = side * 2**halvings


def run_tiled(pipeline):
    tiles(pipeline, 4)
    pipeline.vae.enable_tiling()
    return run_without_engine(pipeline)


def test_a_decode_that_does_not_fit_in_one_piece_is_done_by_tiles(caplog):
    expected, pipeline = run_tiled(tiny_flux()), tiny_flux()
    tiles(pipeline, 4)
    attempts = full_while(pipeline, lambda: not pipeline.vae.use_tiling)
    image = made_by(pipeline, None)
    assert torch.equal(image, expected)
    assert attempts[:2] == [True, True]  # at once, and with idle memory dropped
    assert len(attempts) > 3
    assert not any(attempts[2:])  # the tiles
    assert not pipeline.vae.use_tiling
    assert "did not fit in memory in one piece" in caplog.text


def test_it_fails_if_tiles_do_not_fit_either_and_the_next_is_done_in_one_piece():
    pipeline = tiny_flux()
    left = [True] * 4
    full_while(pipeline, lambda: bool(left and left.pop()))
    with Engine(pipeline, threads=1) as engine:
        with pytest.raises(OutOfMemory):
            engine.submit(**call()).result(60)
        assert not pipeline.vae.use_tiling
        assert torch.equal(
            engine.submit(**call()).result(60).images, run_without_engine(tiny_flux())
        )


def test_a_deterministic_request_is_never_done_by_tiles():
    pipeline = tiny_flux()
    full_while(pipeline, lambda: not pipeline.vae.use_tiling)
    with Engine(pipeline, threads=1) as engine, pytest.raises(OutOfMemory):
        engine.submit(deterministic=True, **call()).result(60)


def test_a_generation_that_asks_for_tiles_has_them_and_others_beside_it_do_not():
    expected, plain, pipeline = run_tiled(tiny_flux()), run_without_engine(tiny_flux()), tiny_flux()
    tiles(pipeline, 4)
    with Engine(pipeline, threads=1, max_batch=1) as engine:
        generations = [
            engine.submit(options=GenerationOptions(tiles=has_tiles), **call())
            for has_tiles in (True, False, True)
        ]
        results = [generation.result(60).images for generation in generations]
    assert torch.equal(results[0], expected)
    assert torch.equal(results[1], plain)
    assert torch.equal(results[2], expected)
    assert not torch.equal(expected, plain)
    assert not pipeline.vae.use_tiling


def test_tiles_of_an_autoencoder_that_waits_in_host_memory_are_computed_on_the_device():
    expected, pipeline = run_tiled(tiny_flux()), tiny_flux()
    tiles(pipeline, 4)
    with Engine(device=FakeAccelerator(), threads=1) as engine:
        engine.add("it", pipeline, Recipe(24, "float32", "components", ("text_encoder",)))
        for _ in range(2):
            generation = engine.submit(
                pipeline="it", options=GenerationOptions(tiles=True), **call()
            )
            assert torch.equal(generation.result(60).images, expected)
        whole = engine.submit(pipeline="it", **call()).result(60).images
    assert torch.equal(whole, run_without_engine(tiny_flux()))
