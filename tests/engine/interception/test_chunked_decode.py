"""Videos are decoded and encoded in chunks, and others go on in between."""

import pytest
import torch

from deployments.engine.engine import Engine
from deployments.engine.interception.chunked_decode import decoded_of
from serve_app.domain.errors import Cancelled
from serve_app.domain.progress import Stage
from tests.engine.conformance import autoencoders
from tests.engine.conformance.case import enliven
from tests.engine.gate import Gate, merging_engine
from tests.engine.loops import Denoiser, Loop
from tests.samples import sample_params

pytestmark = [pytest.mark.engine, pytest.mark.filterwarnings("ignore")]


def in_tiles(make, side):
    """Smaller ones than of any real size: ``side`` pixels, half of which are the next one's too."""

    def made():
        vae = make()
        vae.enable_tiling(side, side, tile_sample_stride_height=side // 2)
        vae.tile_sample_stride_width = side // 2
        return vae

    return made


VIDEOS = {
    "wan": (autoencoders.wan, (1, 16, 3, 4, 4), (1, 3, 9, 16, 16)),
    "cogvideox": (autoencoders.cogvideox, (1, 4, 5, 4, 4), (1, 3, 17, 16, 16)),
    "ltx": (in_tiles(autoencoders.ltx, 16), (1, 8, 3, 8, 8), (1, 3, 9, 32, 32)),
    "ltx2": (in_tiles(autoencoders.ltx2_video, 16), (1, 4, 3, 16, 16), (1, 3, 9, 32, 32)),
    "hunyuan": (in_tiles(autoencoders.hunyuan_video, 16), (1, 4, 3, 8, 8), (1, 3, 9, 32, 32)),
}


def long_audio():
    vae = autoencoders.oobleck()
    vae.enable_tiling()
    vae.tile_latent_min_length, vae.tile_latent_overlap = 16, 2
    return vae


LONG = {
    "wan in tiles": (in_tiles(autoencoders.wan, 16), (1, 16, 3, 5, 7)),
    "ltx": (VIDEOS["ltx"][0], (1, 8, 3, 7, 9)),
    "ltx2": (VIDEOS["ltx2"][0], (1, 4, 3, 16, 20)),
    "hunyuan": (VIDEOS["hunyuan"][0], (1, 4, 9, 9, 8)),
    "cogvideox": (autoencoders.cogvideox, (1, 4, 5, 4, 4)),
    "audio": (long_audio, (1, 4, 50)),
}
"""Latents of more than one chunk, that tiles do not fit evenly."""


class Decodes:
    def __init__(self, vae):
        self.vae = vae

    def __call__(self, latents):
        return self.vae.decode(latents, return_dict=False)[0]


class Encodes(Decodes):
    def __call__(self, latents):
        return self.vae.encode(latents).latent_dist.mode()


def build_vae(kind):
    make, latents, video = VIDEOS[kind]
    torch.manual_seed(0)
    vae = make()
    enliven(vae)
    return vae, latents, video


@pytest.mark.variants(1)
@pytest.mark.parametrize("pipeline", [Decodes, Encodes])
@pytest.mark.parametrize("kind", sample_params(VIDEOS, "wan", "ltx"))
def test_videos_that_take_turns_do_not_mix(kind, pipeline):
    vae, latents, video = build_vae(kind)
    calls = pipeline(vae)
    inputs = [torch.randn(latents if pipeline is Decodes else video) for _ in range(2)]
    whose = []
    inner = vae.decoder if pipeline is Decodes else vae.encoder
    with torch.no_grad():
        expected = [calls(tensor) for tensor in inputs]
    before = dict(vars(vae))
    inner.register_forward_pre_hook(lambda _, arguments: whose.append(len(arguments[0])))
    with merging_engine(calls, threads=1) as engine:
        gate = Gate(engine)
        running = [engine.submit(latents=tensor) for tensor in inputs]
        gate.open()
        for generation, video in zip(running, expected, strict=True):
            assert torch.equal(generation.result(60), video)
        counts = engine.counts()["autoencoders"]
    assert len(whose) == counts["single_calls"] >= 4
    assert counts["merged_calls"] == 0
    assert {**vars(vae)} == before


@pytest.mark.long
@pytest.mark.parametrize(
    ("kind", "pipeline"), [("wan", Decodes), ("wan", Encodes), ("ltx2", Decodes)]
)
def test_a_short_generation_that_comes_steps_between_the_chunks_of_a_long_video(kind, pipeline):
    vae, latents, video = build_vae(kind)
    long = latents if pipeline is Decodes else video
    long = (*long[:2], 41, *long[3:])
    order, short = [], []

    class Steps(Denoiser):
        def compute(self, latents, timestep):
            order.append("step")
            return super().compute(latents, timestep)

    def chunk(*_):
        order.append("chunk")
        if not short:
            arguments = {"start": torch.ones(1, 4), "steps": 4, "num_inference_steps": 4}
            short.append(engine.submit(pipeline="steps", **arguments))

    inner = vae.decoder if pipeline is Decodes else vae.encoder
    inner.register_forward_pre_hook(chunk)
    with merging_engine(pipeline(vae), threads=1) as engine:
        engine.add("steps", Loop(Steps()))
        engine.submit(latents=torch.randn(long)).result(60)
        short[0].result(60)
    assert order.count("chunk") > 5
    assert order[1:5] == ["step"] * 4


def test_a_video_of_few_chunks_goes_before_a_generation_of_many_steps():
    vae, latents, _ = build_vae("wan")
    order = []
    vae.decoder.register_forward_pre_hook(lambda *_: order.append("chunk"))

    class Steps(Denoiser):
        def compute(self, latents, timestep):
            order.append("step")
            return super().compute(latents, timestep)

    arguments = {"start": torch.ones(1, 4), "steps": 40, "num_inference_steps": 40}
    with merging_engine(Decodes(vae), threads=1) as engine:
        engine.add("steps", Loop(Steps()))
        gate = Gate(engine)
        running = [
            engine.submit(pipeline="steps", **arguments),
            engine.submit(latents=torch.randn(latents)),
        ]
        gate.open()
        for generation in running:
            generation.result(60)
    assert order.index("chunk") < 3
    assert "".join(name[0] for name in order).count("ccc") == 1


def test_one_is_cancelled_between_two_chunks_and_the_next_is_whole():
    vae, latents, _ = build_vae("wan")
    tensor = torch.randn(latents)
    pipeline = Decodes(vae)
    with torch.no_grad():
        expected = pipeline(tensor)
    doomed = []
    hook = vae.decoder.register_forward_pre_hook(lambda *_: doomed[0].cancel())
    with merging_engine(pipeline, threads=1) as engine:
        gate = Gate(engine)
        doomed.append(engine.submit(latents=tensor))
        gate.open()
        with pytest.raises(Cancelled):
            doomed[0].result(60)
        hook.remove()
        assert engine.counts()["autoencoders"]["single_calls"] == 1
        assert torch.equal(engine.submit(latents=tensor).result(60), expected)


class Videos(Loop):
    """Takes a few steps, and decodes what they give."""

    def __init__(self, denoiser, vae):
        super().__init__(denoiser)
        self.vae = vae

    def __call__(self, start, num_inference_steps):
        latents = start.flatten(1)
        for step in range(num_inference_steps):
            latents = self.transformer(latents, timestep=step) / 2
        return self.vae.decode(latents.reshape(start.shape), return_dict=False)[0]


def test_a_snapshot_before_the_first_chunk_takes_no_step_again():
    vae, latents, _ = build_vae("wan")
    pipeline = Videos(Denoiser(), vae)
    arguments = {"start": torch.randn(latents), "num_inference_steps": 4}
    with torch.no_grad():
        expected = pipeline(**arguments)
    snapshots = []

    def ask(progress):
        if progress.stage is Stage.DECODING:
            snapshots.append(running.request_snapshot())

    with Engine(pipeline, threads=1) as engine:
        gate = Gate(engine)
        running = engine.submit(on_progress=ask, **arguments)
        gate.open()
        assert torch.equal(running.result(60), expected)
    state = snapshots[0].result(60).to_bytes()
    with Engine(pipeline, threads=1) as other:
        assert torch.equal(other.submit(snapshot=state, **arguments).result(60), expected)
        assert other.counts()["forwards"] == 0
        assert other.counts()["autoencoders"]["forwards"] == 3


@pytest.mark.long
@pytest.mark.parametrize("kind", sample_params(LONG, *(LONG.keys() - {"hunyuan"})))
def test_progress_of_decoding_is_reported_chunk_by_chunk(kind):
    make, shape = LONG[kind]
    torch.manual_seed(0)
    vae = make()
    enliven(vae)
    pipeline = Videos(Denoiser(), vae)
    arguments = {"start": torch.randn(shape), "num_inference_steps": 2}
    with torch.no_grad():
        expected = pipeline(**arguments)
    computed, reported = [], []
    vae.decoder.register_forward_pre_hook(lambda _, args: computed.append(args[0][0, 0].numel()))
    with merging_engine(pipeline, threads=1) as engine:
        gate = Gate(engine)
        running = engine.submit(on_progress=reported.append, **arguments)
        gate.open()
        assert torch.equal(running.result(60), expected)
        assert engine.counts()["autoencoders"]["single_calls"] == len(computed) > 1
    assert sum(computed) == decoded_of(vae, shape)
    first, *chunks = [progress for progress in reported if progress.stage is Stage.DECODING]
    assert (first.step, first.steps) == (0, 0)
    assert len(chunks) == len(computed)
    frames = shape[2] if len(shape) == 5 else len(computed)
    done = [sum(computed[:number]) / sum(computed) for number in range(len(computed))]
    assert [chunk.step for chunk in chunks] == [int(share * frames) for share in done]
    assert {chunk.steps for chunk in chunks} == {frames}
    assert running.steps_done == 2


def test_audio_files_that_are_decoded_beside_each_other_are_those_of_each_alone():
    make, shape = LONG["audio"]
    pipeline = Decodes(make())
    inputs = [torch.randn(shape) for _ in range(2)]
    with torch.no_grad():
        expected = [pipeline(tensor) for tensor in inputs]
    with Engine(pipeline, threads=1) as engine:
        gate = Gate(engine)
        running = [engine.submit(latents=tensor) for tensor in inputs]
        gate.open()
        for generation, audio in zip(running, expected, strict=True):
            assert torch.allclose(generation.result(60), audio, atol=1e-5)
