"""Snapshots of a running generation, and what goes on from them on another engine."""

import gc
import json
import threading

import pytest
import torch
from diffusers import (
    DPMSolverMultistepScheduler,
    DPMSolverSDEScheduler,
    EulerAncestralDiscreteScheduler,
    TaylorSeerCacheConfig,
    UniPCMultistepScheduler,
)
from hypothesis import given
from hypothesis import strategies as st

from deployments.engine.engine import Engine
from deployments.engine.loop.options import GenerationOptions
from deployments.engine.snapshot.format import Snapshot
from serve_app.domain.errors import Cancelled, SnapshotRefused
from serve_app.domain.progress import Stage
from tests.engine.calls import call, run_without_engine
from tests.engine.gate import Gate, merging_engine
from tests.engine.loops import Denoiser, Loop
from tests.engine.tiny import tiny_flux, tiny_sdxl
from tests.samples import sample_params

pytestmark = [
    pytest.mark.engine,
    # diffusers' discrete solvers and numpy 2
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]
STEPS = 5
KEPT = 2**20  # bytes of outputs

SOLVERS = {
    "dpm++": DPMSolverMultistepScheduler,
    "unipc": UniPCMultistepScheduler,
    "ancestral": EulerAncestralDiscreteScheduler,
}


@pytest.fixture(
    params=sample_params(["flux", "sdxl", "sd3", *SOLVERS], "flux", "unipc"), scope="module"
)
def pipeline(request):
    if request.param in SOLVERS:
        return tiny_sdxl(SOLVERS[request.param]())
    return request.getfixturevalue(request.param)


def engine_of(pipeline, **more):
    return merging_engine(pipeline, threads=1, **more)


class AskAt:
    """A listener that asks for snapshots when so many steps are done."""

    def __init__(self, *steps):
        self._steps = steps
        self._known = threading.Event()
        self.asked = {}

    def __call__(self, progress):
        is_due = progress.stage is Stage.DENOISING and progress.step in self._steps
        if is_due and progress.step not in self.asked:
            assert self._known.wait(60)
            self.asked[progress.step] = self.generation.request_snapshot()

    def watch(self, generation):
        self.generation = generation
        self._known.set()

    def states(self):
        return {step: snapshot.result(60).to_bytes() for step, snapshot in self.asked.items()}


def run_with_snapshots(engine, steps, arguments, **more):
    """The output, and the snapshots by the number of steps that were done."""
    asking = AskAt(*steps)
    generation = engine.submit(on_progress=asking, **more, **arguments)
    asking.watch(generation)
    return generation.result(60), asking.states()


@pytest.mark.variants(1)
@pytest.mark.parametrize("kept", [0, KEPT], ids=["its frames", "its outputs"])
def test_a_generation_goes_on_from_any_step_on_another_engine_bit_for_bit(pipeline, kept):
    plain = run_without_engine(pipeline, steps=STEPS)
    with engine_of(pipeline) as engine:
        result, states = run_with_snapshots(
            engine,
            range(STEPS),
            call(steps=STEPS),
            options=GenerationOptions(keep_outputs_bytes=kept),
        )
    assert torch.equal(result.images, plain)  # asking has changed nothing
    assert len(states) == STEPS
    for step, state in states.items():
        with engine_of(pipeline) as other:
            result = other.submit(snapshot=state, **call(steps=STEPS)).result(60)
            counts = other.counts()
        assert torch.equal(result.images, plain)
        assert (counts["steps"], counts["forwards"]) == (STEPS - step, STEPS - step)


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:Should have t:UserWarning")  # torchsde, of rounded times
@pytest.mark.parametrize("kept", [0, KEPT], ids=["its frames", "its outputs"])
def test_a_solver_that_takes_no_generator_draws_by_the_request_s_seed_also_when_it_goes_on(kept):
    arguments = {"steps": STEPS}
    pipeline = tiny_sdxl(DPMSolverSDEScheduler(use_karras_sigmas=True))
    options = GenerationOptions(keep_outputs_bytes=kept)
    with engine_of(pipeline) as engine:
        plain = engine.submit(**call(**arguments)).result(60).images
        torch.rand(7)  # others draw from the global state
        result, states = run_with_snapshots(engine, [2, 5], call(**arguments), options=options)
    assert torch.equal(result.images, plain)
    assert len(states) == 2
    for state in states.values():
        with engine_of(pipeline) as other:
            result = other.submit(snapshot=state, **call(**arguments)).result(60)
        assert torch.equal(result.images, plain)


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:Should have t:UserWarning")  # torchsde, of rounded times
def test_a_solver_that_takes_no_generator_draws_each_image_by_its_own_seed():
    pipeline = tiny_sdxl(DPMSolverSDEScheduler(use_karras_sigmas=True))
    with engine_of(pipeline) as engine:
        two = [torch.Generator().manual_seed(seed) for seed in (1, 2)]
        both = engine.submit(
            **{**call(steps=STEPS), "generator": two, "num_images_per_prompt": 2}
        ).result(60)
        alone = [engine.submit(**call(steps=STEPS, seed=seed)).result(60) for seed in (1, 2)]
    for image, its in zip(both.images, alone, strict=True):
        assert (image - its.images[0]).abs().max() <= 1e-4


def test_a_snapshot_of_what_went_on_from_a_snapshot_is_as_good(flux):
    plain = run_without_engine(flux, steps=STEPS)
    with engine_of(flux) as engine:
        _, states = run_with_snapshots(engine, [2], call(steps=STEPS))
        _, states = run_with_snapshots(engine, [4], call(steps=STEPS), snapshot=states[2])
        result = engine.submit(snapshot=states[4], **call(steps=STEPS)).result(60)
    assert torch.equal(result.images, plain)


@pytest.mark.long
def test_it_works_among_merged_neighbours(flux):
    wishes = [{"seed": seed, "steps": STEPS + seed} for seed in (1, 2, 3)]
    with engine_of(flux) as engine:
        gate = Gate(engine)
        asking = AskAt(3)
        first = engine.submit(on_progress=asking, **call(**wishes[0]))
        asking.watch(first)
        beside = [engine.submit(**call(**wish)) for wish in wishes[1:]]
        gate.open()
        for generation in (first, *beside):
            generation.result(60)
        state = asking.states()[3]
        gate = Gate(engine)
        merged_before = engine.counts()["merged_calls"]
        resumed = [engine.submit(snapshot=state, **call(**wishes[0]))]
        resumed += [engine.submit(**call(**wish)) for wish in wishes[1:]]
        gate.open()
        results = [generation.result(60).images for generation in resumed]
        assert merged_before > 0
        assert engine.counts()["merged_calls"] > merged_before
    for wish, images in zip(wishes, results, strict=True):
        assert (images - run_without_engine(flux, **wish)).abs().max() <= 1e-4


def test_progress_goes_on_where_it_was(flux):
    stored = []
    with engine_of(flux) as engine:
        _, states = run_with_snapshots(engine, [3], call(steps=STEPS))
        engine.submit(snapshot=states[3], on_progress=stored.append, **call(steps=STEPS)).result(60)
    denoising = [p for p in stored if p.stage is Stage.DENOISING]
    assert [p.step for p in denoising] == [3, 4, 5]
    assert {p.steps for p in denoising} == {STEPS}


def test_waiting_for_a_snapshot_from_another_thread(flux):
    with engine_of(flux) as engine:
        stepped = threading.Event()
        long = engine.submit(
            on_progress=lambda p: stepped.set() if p.step else None, **call(steps=1000)
        )
        assert stepped.wait(60)
        assert Snapshot.of_bytes(long.snapshot(60)).step > 0
        gate = Gate(engine)
        given_up = long.request_snapshot()
        given_up.cancel()
        long.cancel()
        gate.open()
        with pytest.raises(Cancelled):
            long.result(60)
        with pytest.raises(SnapshotRefused, match="ended"):
            long.snapshot(60)


def test_one_that_waits_has_no_snapshot_or_the_one_that_it_came_with(flux):
    with engine_of(flux) as engine:
        _, states = run_with_snapshots(engine, [2], call(steps=STEPS))
        with Engine(flux, threads=1, max_generations=1) as other:
            other.submit(**call(steps=1000))
            fresh = other.submit(**call(steps=STEPS))
            half = other.submit(snapshot=states[2], **call(steps=STEPS))
            with pytest.raises(SnapshotRefused, match="begun"):
                fresh.snapshot(60)
            assert Snapshot.of_bytes(half.snapshot(60)).step == 2


@pytest.fixture(scope="module")
def state(flux):
    """After two steps of a call of Flux."""
    with engine_of(flux) as engine:
        return run_with_snapshots(engine, [2], call(steps=STEPS))[1][2]


@pytest.mark.parametrize(
    "other", [{"prompt": "a blue square"}, {"seed": 2}, {"steps": 6}, {"guidance_scale": 1.0}]
)
def test_another_call_is_refused(flux, state, other):
    with engine_of(flux) as engine:
        with pytest.raises(SnapshotRefused, match="other arguments"):
            engine.submit(snapshot=state, **call(**{"steps": STEPS, **other}))


def test_another_pipeline_is_refused(state, sd3):
    with engine_of(sd3) as engine, pytest.raises(SnapshotRefused, match="FluxPipeline there"):
        engine.submit(snapshot=state, **call(steps=STEPS))


def test_another_configuration_of_the_same_pipeline_is_refused(state):
    with engine_of(tiny_flux(guidance=True)) as engine:
        with pytest.raises(SnapshotRefused, match="other components"):
            engine.submit(snapshot=state, **call(steps=STEPS))


@pytest.mark.parametrize(
    ("field", "value", "match"),
    [("torch", "1.0", "version of torch"), ("format", 0, "format 0"), ("device", "cuda", "device")],
)
def test_one_of_another_origin_is_refused(flux, state, field, value, match):
    with engine_of(flux) as engine, pytest.raises(SnapshotRefused, match=match):
        engine.submit(snapshot=change_origin(state, field, value), **call(steps=STEPS))


def change_origin(state, field, value):
    size = int.from_bytes(state[:8], "little")
    header = json.loads(state[8 : 8 + size])
    stored = json.loads(header["__metadata__"]["darkroom"])
    stored["origin"][field] = value
    header["__metadata__"]["darkroom"] = json.dumps(stored)
    again = json.dumps(header).encode()
    return len(again).to_bytes(8, "little") + again + state[8 + size :]


@given(noise=st.binary(max_size=64), keep=st.integers(0, 4000))
def test_bytes_that_are_no_snapshot_are_refused(state, noise, keep):
    for bad in (noise, state[:keep], state[:8] + noise + state[8 + len(noise) + 1 :]):
        with pytest.raises(SnapshotRefused):
            Snapshot.of_bytes(bad)


def test_one_with_a_step_cache_that_cannot_be_merged_is_refused():
    pipeline = tiny_flux()
    pipeline.transformer.enable_cache(TaylorSeerCacheConfig())
    with engine_of(pipeline) as engine:
        generation = engine.submit(**call(steps=1000))
        snapshot = asked_in_the_middle(generation)
        with pytest.raises(SnapshotRefused, match="step cache"):
            snapshot.result(60)


def step_callback(pipeline, step, timestep, tensors):
    return tensors


def test_one_that_calls_back_needs_its_outputs_kept(flux):
    arguments = {"callback_on_step_end": step_callback}
    with engine_of(flux) as engine:
        snapshot = asked_in_the_middle(engine.submit(**arguments, **call(steps=1000)))
        with pytest.raises(SnapshotRefused, match="keep_outputs_bytes"):
            snapshot.result(60)
        fields = {**arguments, **call(steps=STEPS)}
        result, states = run_with_snapshots(
            engine, [2], fields, options=GenerationOptions(keep_outputs_bytes=KEPT)
        )
        again = engine.submit(snapshot=states[2], **arguments, **call(steps=STEPS)).result(60)
    assert torch.equal(result.images, again.images)


def asked_in_the_middle(generation):
    snapshot = generation.request_snapshot()
    while isinstance(snapshot.exception(60), SnapshotRefused) and "begun" in str(
        snapshot.exception()
    ):
        snapshot = generation.request_snapshot()
    return snapshot


def test_outputs_above_the_bound_are_let_go_and_the_frames_used(flux):
    with engine_of(flux) as engine:
        result, states = run_with_snapshots(
            engine,
            [3],
            call(steps=STEPS),
            options=GenerationOptions(keep_outputs_bytes=KEPT // 1000),
        )
        assert Snapshot.of_bytes(states[3]).outputs is None
        again = engine.submit(snapshot=states[3], **call(steps=STEPS)).result(60)
    assert torch.equal(result.images, again.images)


@pytest.mark.long
def test_neither_snapshots_nor_refusals_keep_tensors_of_an_ended_generation(flux):
    def count():
        gc.collect()
        return sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())

    refusals = []

    def take_all(engine):
        run_with_snapshots(engine, range(STEPS), call(steps=STEPS))
        calling = AskAt(1, 2)
        arguments = call(steps=STEPS, callback_on_step_end=step_callback)
        generation = engine.submit(on_progress=calling, **arguments)
        calling.watch(generation)
        generation.result(60)
        refusals.extend(snapshot.exception(60) for snapshot in calling.asked.values())

    with engine_of(flux) as engine:
        take_all(engine)
        before = count()
        for _ in range(5):
            take_all(engine)
        assert count() <= before + 2
    assert {type(error) for error in refusals} == {SnapshotRefused}


class Iterates(Loop):
    """Holds an iterator, whose next values cannot be known."""

    def __call__(self, start, steps=5, **more):
        latents, times = start.clone(), iter(range(steps))
        for step in times:
            latents = self.transformer(latents, timestep=step)
        return latents


class Remembers(Loop):
    """Has its state in a list, in numbers, in a dictionary and in NaNs."""

    def __call__(self, start, steps=5, **more):
        latents, history, facts, largest = start.clone(), [], {"sum": None}, 0.0
        unknown = torch.full((2,), torch.nan)
        for step in range(steps):
            output = self.transformer(latents, timestep=step)
            largest = max(largest, float(output.max()))
            history.append(output)
            facts["sum"] = sum(history) + largest
            unknown = unknown + 0 * output.mean()
            latents = latents + facts["sum"] / (1 + largest)
            expanded = latents[:1].mean().expand(2)
        return latents, history, facts, largest, expanded, unknown


def middle(engine, loop, steps=5, **more):
    """The output, and a snapshot from before its fourth call."""
    snapshots = []
    loop.transformer.rows.clear()

    def ask(module, arguments):
        if len(module.rows) == 2:  # the third forward; the snapshot is taken before the next
            snapshots.append(box[0].request_snapshot())

    hook = loop.transformer.register_forward_pre_hook(ask)
    gate = Gate(engine)
    box = [engine.submit(start=torch.ones(1, 2), steps=steps, **more)]
    gate.open()
    output = box[0].result(60)
    hook.remove()
    return output, snapshots[0]


def test_numbers_lists_and_dictionaries_of_a_frame_are_put_back():
    with engine_of(Remembers(Denoiser())) as engine:
        result, snapshot = middle(engine, engine._pipeline)
        state = snapshot.result(60).to_bytes()
    loop = Remembers(Denoiser())
    with engine_of(loop) as engine:
        again = engine.submit(snapshot=state, start=torch.ones(1, 2), steps=5).result(60)
    assert len(loop.transformer.rows) == 2
    assert torch.equal(again[0], result[0])
    assert all(map(torch.equal, again[1], result[1]))
    assert torch.equal(again[2]["sum"], result[2]["sum"])
    assert again[3] == result[3]
    assert torch.equal(again[4], result[4])


def test_what_cannot_be_read_is_refused_by_name_and_goes_on_from_its_outputs():
    with engine_of(Iterates(Denoiser())) as engine:
        _, snapshot = middle(engine, engine._pipeline)
        with pytest.raises(SnapshotRefused, match=r"range_iterator.*keep_outputs_bytes"):
            snapshot.result(60)
        result, snapshot = middle(
            engine, engine._pipeline, options=GenerationOptions(keep_outputs_bytes=KEPT)
        )
        state = snapshot.result(60).to_bytes()
        again = engine.submit(snapshot=state, start=torch.ones(1, 2), steps=5).result(60)
    assert torch.equal(result, again)
