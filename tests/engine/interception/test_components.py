"""Which components are stepped, and which run in one go."""

import pytest
import torch
from diffusers import ControlNetModel, DiffusionPipeline, StableDiffusionXLControlNetPipeline

from deployments.engine.engine import Engine
from deployments.engine.interception.components import KnownDenoisers
from serve_app.domain.errors import Misconfigured
from tests.engine.calls import SIDE, call
from tests.engine.gate import Gate, merging_engine
from tests.engine.loops import Denoiser, Loop
from tests.engine.tiny import tiny_flux, tiny_sdxl

pytestmark = [
    pytest.mark.engine,
    # diffusers' discrete solvers and numpy 2
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]


class Unusual:
    """Keeps its denoiser under a name of its own."""

    def __init__(self):
        self.encoder = torch.nn.Linear(4, 4)
        self.dreamer = Denoiser()

    def __call__(self, start, num_inference_steps):
        latents = self.encoder(start)
        for step in range(num_inference_steps):
            latents = self.dreamer(latents, step)
        return latents


def run(engine, pipeline, count=2, steps=4):
    start = torch.ones(1, 4)
    gate = Gate(engine)
    running = [
        engine.submit(start=start * n, num_inference_steps=steps) for n in range(1, count + 1)
    ]
    gate.open()
    for n, generation in enumerate(running, 1):
        assert torch.allclose(generation.result(60), pipeline(start * n, steps))


def test_a_component_that_is_called_in_each_step_is_found_by_counting():
    pipeline = Unusual()
    with merging_engine(pipeline) as engine:
        run(engine, pipeline, count=1)
        assert engine.counts()["forwards"] == 0
        run(engine, pipeline)
        assert engine.counts()["merged_calls"] == 8


class LooksForHooks(Unusual):
    """Through all modules of its components, as diffusers' do, and again; gives what it saw."""

    def __call__(self, start, num_inference_steps):
        parts = (self.encoder, self.dreamer)
        before = [[*part.modules()] for part in parts]
        super().__call__(start, num_inference_steps)
        return before, [[*part.modules()] for part in parts]


def test_a_pipeline_that_looks_through_its_components_sees_their_modules_each_time():
    pipeline = LooksForHooks()
    pipeline.dreamer.inner = torch.nn.Linear(1, 1)
    with Engine(pipeline) as engine:
        before, after = engine.submit(start=torch.ones(1, 4), num_inference_steps=2).result(60)
    own = [[pipeline.encoder], [pipeline.dreamer, pipeline.dreamer.inner]]
    assert before == after == own


def test_a_generation_keeps_the_pipeline_that_it_was_submitted_with():
    start = torch.ones(1, 4)
    with merging_engine(Loop(Denoiser()), threads=1) as engine:
        engine.add("other", Loop(Denoiser()))
        gate = Gate(engine)
        waits = engine.submit(pipeline="other", start=start)
        engine.remove("other")
        gate.open()
        assert torch.equal(waits.result(60), Loop(Denoiser())(start))
        with pytest.raises(Misconfigured, match="no pipeline 'other'"):
            engine.submit(pipeline="other", start=start)


def test_what_was_found_holds_for_all_pipelines_of_the_class():
    with Engine(Unusual()) as engine:
        run(engine, engine._pipeline, count=1)
        other = Unusual()
        engine.add("other", other)
        engine.submit(pipeline="other", start=torch.ones(1, 4), num_inference_steps=4).result(60)
        assert engine.counts()["forwards"] == 4


def test_what_is_called_fewer_times_than_there_are_steps_is_none():
    known = KnownDenoisers()
    assert known.record_calls(Unusual, {"encoder": 2, "dreamer": 8}, 4) == {"dreamer"}
    assert not known.is_denoiser(Unusual, "encoder", torch.nn.Identity())
    assert known.is_denoiser(Unusual, "dreamer", torch.nn.Identity())
    assert not known.is_denoiser(Denoiser, "dreamer", torch.nn.Identity())


class Writer:
    """Lets a language model write, which calls it for each word."""

    def __init__(self):
        self.text_encoder = tiny_flux().text_encoder_2

    def __call__(self, num_inference_steps):
        for word in range(num_inference_steps):
            self.text_encoder(torch.tensor([[word]]))


def test_a_text_encoder_is_none_however_often_it_is_called():
    with Engine(Writer()) as engine:
        for _ in range(2):
            engine.submit(num_inference_steps=5).result(60)
        assert engine.counts()["forwards"] == 0


def test_a_generation_of_few_steps_proves_nothing():
    assert not KnownDenoisers().record_calls(Unusual, {"encoder": 2, "dreamer": 2}, 2)


def test_controlnets_are_merged_as_denoisers_are():
    base = tiny_sdxl()
    torch.manual_seed(1)
    controlnet = ControlNetModel.from_unet(base.unet, conditioning_embedding_out_channels=(16, 32))
    for parameter in controlnet.parameters():  # its own beginning is zeros, which would hide much
        torch.nn.init.normal_(parameter, std=0.05)
    pipeline = StableDiffusionXLControlNetPipeline(
        **base.components, controlnet=controlnet.eval(), add_watermarker=False
    )
    pipeline.set_progress_bar_config(disable=True)

    def wish(seed, steps):
        shades = torch.linspace(0, 1, SIDE).expand(1, 3, SIDE, SIDE) / seed
        return call(seed=seed, steps=steps, image=shades)

    with merging_engine(pipeline, max_batch=4, threads=1, verify_merges=True) as engine:
        gate = Gate(engine)
        running = [engine.submit(**wish(seed, seed + 3)) for seed in (1, 2, 3)]
        gate.open()
        merged = [generation.result(60).images for generation in running]
        counts = engine.counts()
    for seed, images in zip((1, 2, 3), merged, strict=True):  # a tokenizer is for one thread
        alone = pipeline(**wish(seed, seed + 3)).images
        assert (images - alone).abs().max() <= 1e-4
    assert counts["merged_calls"] + counts["single_calls"] == 30
    assert counts["not_merged"] == {"nobody else": 2}


class Inner(DiffusionPipeline):
    def __init__(self, unet):
        super().__init__()
        self.register_modules(unet=unet)

    def __call__(self, start, steps):
        self.seen = steps
        for step in range(steps):
            start = self.unet(start, step)
        return start


class Outer:
    """A pipeline around another."""

    def __init__(self, unet):
        self.decoder_pipe = Inner(unet)

    def __call__(self, start, num_inference_steps):
        return self.decoder_pipe(start, num_inference_steps)


def test_a_pipeline_inside_a_pipeline_is_stepped_too():
    pipeline = Outer(Denoiser())
    with merging_engine(pipeline) as engine:
        generation = engine.submit(start=torch.ones(1, 4), num_inference_steps=4)
        generation.result(60)
        assert engine.counts()["forwards"] == 4
        assert not hasattr(pipeline.decoder_pipe, "seen")
        run(engine, pipeline)
        assert engine.counts()["merged_calls"] == 8
