"""Autoencoders suspend their generations and share forwards, within bounds."""

import pytest
import torch

from deployments.engine.engine import Engine
from deployments.engine.interception.pipeline import view_of
from deployments.engine.loop import encoders
from deployments.engine.loop.options import GenerationOptions
from serve_app.domain.errors import Cancelled, OutOfMemory
from serve_app.domain.progress import Stage
from tests.engine.calls import SIDE, call
from tests.engine.gate import Gate, merging_engine
from tests.engine.tiny import tiny_flux, tiny_sdxl

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def pipeline():
    return tiny_flux()


@pytest.fixture
def engine(pipeline):
    with merging_engine(pipeline, threads=1, max_batch=4, verify_merges=True) as engine:
        yield engine


def together(engine, seeds, **more):
    gate = Gate(engine)
    running = [engine.submit(**more, **call(seed=seed, steps=2)) for seed in seeds]
    gate.open()
    return [generation.result(60).images for generation in running]


def close(images, pipeline, seed):
    return (images - pipeline(**call(seed=seed, steps=2)).images).abs().max() <= 1e-4


def test_images_that_are_ready_at_once_are_decoded_together(engine, pipeline):
    first = engine.submit(**call(steps=2)).result(60).images  # shows how large they become
    assert torch.equal(first, pipeline(**call(steps=2)).images)
    results = together(engine, (1, 2, 3, 4))
    assert all(close(images, pipeline, seed) for seed, images in enumerate(results, 1))
    # Two are compared with what they give alone, then the others follow.
    assert engine.counts()["autoencoders"]["batch_sizes"] == {1: 1, 2: 2}
    together(engine, (1, 2, 3, 4))
    assert engine.counts()["autoencoders"]["batch_sizes"] == {1: 1, 2: 2, 4: 1}


def test_no_more_pixels_are_decoded_together_than_may_be(engine, pipeline, monkeypatch):
    monkeypatch.setattr(encoders, "MAX_PIXELS", 2 * SIDE**2)
    engine.submit(**call(steps=2)).result(60)
    results = together(engine, (1, 2, 3, 4))
    assert all(close(images, pipeline, seed) for seed, images in enumerate(results, 1))
    assert engine.counts()["autoencoders"]["batch_sizes"] == {1: 1, 2: 2}


def test_images_that_are_given_are_encoded_together(engine, pipeline):
    from diffusers import FluxImg2ImgPipeline  # noqa: PLC0415

    view = view_of(pipeline, FluxImg2ImgPipeline)
    shades = torch.linspace(0, 1, SIDE).expand(1, 3, SIDE, SIDE)
    gate = Gate(engine)
    wishes = [call(seed=seed, steps=4, image=shades / seed, strength=0.5) for seed in (1, 2, 3)]
    running = [engine.submit(view=view, **wish) for wish in wishes]
    gate.open()
    again = [call(seed=seed, steps=4, image=shades / seed, strength=0.5) for seed in (1, 2, 3)]
    for wish, generation in zip(again, running, strict=True):
        assert (generation.result(60).images - view(**wish).images).abs().max() <= 1e-4
    assert engine.counts()["autoencoders"]["batch_sizes"][3] >= 1
    assert engine.counts()["autoencoders"]["trial_forwards"] >= 3  # verified, and found right
    assert "differs when merged" not in engine.counts()["autoencoders"]["not_merged"]


def test_one_that_a_pipeline_has_upcast_runs_in_one_go(pipeline):
    class Upcasts:
        def __init__(self):
            self.vae = tiny_flux().vae

        def __call__(self, latents):
            self.vae.to(torch.float64)
            image = self.vae.decode(latents.double()).sample
            self.vae.to(torch.float32)
            return image

    upcasts = Upcasts()
    latents = torch.randn(1, upcasts.vae.config.latent_channels, 4, 4)
    with Engine(upcasts, threads=1) as engine:
        gate = Gate(engine)
        running = [engine.submit(latents=latents) for _ in range(2)]
        gate.open()
        results = [generation.result(60) for generation in running]
        assert engine.counts()["autoencoders"]["forwards"] == 0
    with torch.no_grad():
        assert all(torch.equal(result, upcasts(latents)) for result in results)


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:`upcast_vae` is deprecated:FutureWarning")
def test_a_decoding_in_float32_that_ran_out_of_memory_spoils_no_later_one():
    pipeline = tiny_sdxl().to(torch.float16)
    vae = pipeline.vae
    vae.register_to_config(force_upcast=True)
    channels = vae.config.latent_channels
    vae.post_quant_conv = torch.nn.Conv2d(channels, channels, 1).half()
    full, decodes = [False, True, True], vae.decoder.forward

    def forward(*arguments, **keywords):
        if full and full.pop(0):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 4.00 GiB.")
        return decodes(*arguments, **keywords)

    vae.decoder.forward = forward

    def submit():
        return engine.submit(
            prompt="a red circle",
            width=32,
            height=32,
            num_inference_steps=2,
            generator=torch.Generator().manual_seed(1),
            output_type="pt",
        )

    with Engine(pipeline, threads=1) as engine:
        before = submit().result(60).images
        with pytest.raises(OutOfMemory):
            submit().result(60)
        assert vae.dtype is torch.float16
        assert torch.equal(submit().result(60).images, before)
        full.append(True)  # a decoding is repeated once idle memory was dropped
        dropped: list[bool] = []
        engine.add_reclaimer(lambda: dropped.append(True))
        assert torch.equal(submit().result(60).images, before)
        assert dropped


def at_decoding(engine, do, **more):
    """A generation with which ``do`` is done when its last step is taken."""
    gate = Gate(engine)

    def look(progress):
        if progress.stage is Stage.DECODING:
            do(running)

    running = engine.submit(on_progress=look, **more, **call(steps=3))
    gate.open()
    return running


def test_one_that_waits_for_its_decoding_can_be_cancelled(engine):
    doomed = at_decoding(engine, lambda running: running.cancel())
    with pytest.raises(Cancelled):
        doomed.result(60)
    assert engine.counts()["autoencoders"]["forwards"] == 0


@pytest.mark.parametrize("keep_outputs_bytes", [0, 2**20])
def test_a_snapshot_before_the_decoding_takes_no_step_again(engine, pipeline, keep_outputs_bytes):
    snapshots, kept = [], {"options": GenerationOptions(keep_outputs_bytes=keep_outputs_bytes)}
    at_decoding(
        engine, lambda running: snapshots.append(running.request_snapshot()), **kept
    ).result(60)
    snapshot = snapshots[0].result(60)
    assert (snapshot.step, snapshot.awaits) == (3, "vae.decode")
    reported = []
    with Engine(pipeline, threads=1) as other:
        resumed = other.submit(
            snapshot=snapshot.to_bytes(), on_progress=reported.append, **call(steps=3)
        )
        images = resumed.result(60).images
        counts = other.counts()
    assert torch.equal(images, pipeline(**call(steps=3)).images)
    assert (counts["steps"], counts["forwards"]) == (0, 0)
    assert counts["autoencoders"]["forwards"] == 1
    assert reported[-1].stage is Stage.DECODING
