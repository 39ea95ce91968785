"""The engine over real pipelines: what interleaving must not change, and what it must.

Each call runs alone here, so that everything is equal bit for bit; merging has its own tests.
"""

import gc
import threading

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, HeunDiscreteScheduler
from greenlet import GreenletExit

from deployments.engine.engine import Engine
from deployments.engine.loop.options import GenerationOptions
from deployments.engine.loop.step_batcher import StepBatcher
from serve_app.domain.errors import (
    Cancelled,
    Misconfigured,
    OutOfMemory,
    PipelineFailed,
    ReplicaDied,
)
from serve_app.domain.progress import Stage
from tests.engine.calls import call, run_without_engine
from tests.engine.tiny import tiny_flux, tiny_sdxl

pytestmark = [
    pytest.mark.engine,
    # diffusers' discrete solvers and numpy 2
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]


@pytest.fixture
def engine():
    with Engine(max_batch=1, max_generations=4, threads=1) as engine:
        yield engine


@pytest.fixture(params=["flux", "sdxl", "sd3"])
def pipeline(request):
    return request.getfixturevalue(request.param)


def test_a_generation_alone_equals_a_plain_call_bit_for_bit(engine, pipeline):
    engine.add("it", pipeline)
    result = engine.submit(pipeline="it", **call()).result(60)
    assert torch.equal(result.images, run_without_engine(pipeline))


def test_interleaved_generations_give_each_what_it_gets_alone(engine, pipeline):
    engine.add("it", pipeline)
    wishes = [
        {"prompt": "a red circle", "seed": 1, "steps": 3},
        {"prompt": "a blue square", "seed": 2, "steps": 5},
        {"prompt": "a green circle", "seed": 3, "steps": 2},
    ]
    running = [engine.submit(pipeline="it", **call(**wish)) for wish in wishes]
    results = [generation.result(60).images for generation in running]
    for wish, images in zip(wishes, results, strict=True):
        assert torch.equal(images, run_without_engine(pipeline, **wish))


@pytest.mark.long
@pytest.mark.parametrize("solver", [DPMSolverMultistepScheduler, HeunDiscreteScheduler])
def test_solvers_that_remember_earlier_steps_do_not_see_each_others(engine, solver):
    pipeline = tiny_sdxl(solver())
    engine.add("it", pipeline)
    running = [engine.submit(pipeline="it", **call(seed=seed, steps=4)) for seed in (1, 2)]
    results = [
        generation.result(60).images for generation in running
    ]  # modules are for one thread at a time
    for seed, images in zip((1, 2), results, strict=True):
        assert torch.equal(images, run_without_engine(pipeline, seed=seed, steps=4))


def test_a_short_generation_does_not_wait_for_a_long_one(engine, flux):
    engine.add("it", flux)
    engine.add("gate", Gate())
    gate = engine.submit(pipeline="gate")  # both are in the inbox before either begins
    order, running = [], []
    for steps in (40, 4):
        running.append(engine.submit(pipeline="it", **call(steps=steps)))
        running[-1].add_done_callback(lambda _, steps=steps: order.append(steps))
    Gate.opened.set()
    for generation in (gate, *running):
        generation.result(60)
    engine.close()  # callbacks come after the result
    assert order == [4, 40]


def test_different_pipelines_interleave_in_one_engine(engine, flux, sdxl):
    engine.add("flux", flux)
    engine.add("sdxl", sdxl)
    first = engine.submit(pipeline="flux", **call())
    two = engine.submit(pipeline="sdxl", **call())
    results = [generation.result(60).images for generation in (first, two)]
    assert torch.equal(results[0], run_without_engine(flux))
    assert torch.equal(results[1], run_without_engine(sdxl))


def test_the_same_seed_gives_the_same_image_and_another_seed_another(engine, flux):
    engine.add("it", flux)
    first, again, other = (
        engine.submit(pipeline="it", **call(seed=seed)).result(60).images for seed in (7, 7, 8)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_cancelling_one_leaves_the_others_and_later_plain_calls_unaffected(engine, flux):
    engine.add("it", flux)

    def cancel_in_the_middle(progress):
        if progress.stage is Stage.DENOISING and progress.step == 2:
            doomed.cancel()

    engine.add("gate", Gate())
    engine.submit(pipeline="gate")  # until `doomed` is known
    other = engine.submit(pipeline="it", **call(seed=2, steps=6))
    doomed = engine.submit(
        pipeline="it", on_progress=cancel_in_the_middle, **call(seed=1, steps=1000)
    )
    Gate.opened.set()
    with pytest.raises(Cancelled):
        doomed.result(60)
    assert doomed.steps_done == 2
    assert torch.equal(other.result(60).images, run_without_engine(flux, seed=2, steps=6))
    after = engine.submit(pipeline="it", **call(seed=3)).result(60)
    assert torch.equal(after.images, run_without_engine(flux, seed=3))


def test_cancelling_before_the_first_turn_runs_nothing(engine, flux):
    engine.add("it", flux)
    reported = []
    engine.add("gate", Gate())
    gate = engine.submit(pipeline="gate")
    doomed = engine.submit(pipeline="it", on_progress=reported.append, **call())
    doomed.cancel()
    Gate.opened.set()
    with pytest.raises(Cancelled):
        doomed.result(60)
    gate.result(60)
    assert reported == []


def test_progress_counts_every_step_and_never_goes_back(engine, pipeline):
    engine.add("it", pipeline)
    reported = []
    generation = engine.submit(pipeline="it", on_progress=reported.append, **call(steps=4))
    generation.result(60)
    stages = [Stage.ENCODING_TEXT, Stage.DENOISING, Stage.DECODING]
    places = [(stages.index(p.stage), p.step) for p in reported]
    assert places == sorted(places)
    assert [p.step for p in reported if p.stage is Stage.DENOISING] == [0, 1, 2, 3, 4]
    assert {p.steps for p in reported if p.stage is Stage.DENOISING} == {4}
    assert reported[-1].stage is Stage.DECODING
    assert generation.steps_done == 4


def test_an_error_reaches_its_caller_and_no_one_else(engine, flux):
    engine.add("it", flux)
    good = engine.submit(pipeline="it", **call(steps=5))
    bad = engine.submit(pipeline="it", **call(prompt=3))
    with pytest.raises(ValueError, match="prompt"):
        bad.result(60)
    assert torch.equal(good.result(60).images, run_without_engine(flux, steps=5))


def test_an_error_in_a_listener_harms_no_one(engine, flux, caplog):
    engine.add("it", flux)

    def listener(progress):
        raise ZeroDivisionError

    result = engine.submit(pipeline="it", on_progress=listener, **call()).result(60)
    assert torch.equal(result.images, run_without_engine(flux))
    assert "listener" in caplog.text


def test_gradients_stay_off_when_another_generation_ends(engine, flux):
    engine.add("it", flux)
    short = engine.submit(pipeline="it", **call(steps=1))
    long = engine.submit(pipeline="it", **call(steps=6))
    short.result(60)
    assert not long.result(60).images.requires_grad


def test_the_pipeline_that_was_added_is_as_it_was(engine):
    pipeline = tiny_flux()
    before = dict(vars(pipeline))
    engine.add("it", pipeline)
    engine.submit(pipeline="it", **call()).result(60)
    assert vars(pipeline) == before
    assert pipeline.scheduler.begin_index is None


def test_a_pipeline_that_was_never_added_is_refused(engine):
    with pytest.raises(Misconfigured, match="nothing"):
        engine.submit(pipeline="nothing")


def test_closing_ends_what_runs_and_what_waits(flux):
    engine = Engine(device="cpu", max_generations=1, threads=1)
    engine.start()
    engine.add("it", flux)
    running = [engine.submit(pipeline="it", **call(steps=1000)) for _ in range(3)]
    engine.close(60)
    for generation in running:
        with pytest.raises(Cancelled):
            generation.result(1)
    assert not engine.alive
    with pytest.raises(ReplicaDied):
        engine.submit(pipeline="it", **call())


@pytest.mark.long
def test_hundreds_of_aborted_generations_leave_memory_flat(engine):
    engine.add("it", tiny_flux())

    def abort(count):
        for seed in range(count):
            stepped = Stepped()
            doomed = engine.submit(pipeline="it", on_progress=stepped, **call(seed=seed, steps=50))
            doomed.add_done_callback(lambda _: None)
            if seed % 2:
                stepped.wait()
            doomed.cancel()
            with pytest.raises(Cancelled):
                doomed.result(60)

    abort(20)
    before = live_tensors()
    abort(200)
    assert live_tensors() <= before + 20


def test_failed_generations_let_go_of_their_tensors_while_the_error_is_kept(engine, flux):
    engine.add("it", flux)
    engine.submit(pipeline="it", **call()).result(60)
    before = live_tensors()

    def fail(pipeline, step, timestep, tensors):
        raise ZeroDivisionError

    errors = []
    for _ in range(10):
        doomed = engine.submit(pipeline="it", callback_on_step_end=fail, **call())
        with pytest.raises(ZeroDivisionError) as caught:
            doomed.result(60)
        errors.append(caught.value)
    del doomed
    assert live_tensors() <= before + 5


class Stepped:
    """A listener that can be waited for: a loop that asks would starve the engine's thread."""

    def __init__(self):
        self._event = threading.Event()

    def __call__(self, progress):
        if progress.stage is not Stage.ENCODING_TEXT and progress.step > 0:
            self._event.set()

    def wait(self):
        assert self._event.wait(60), "The generation took no step."


def live_tensors():
    gc.collect()
    return sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())


class Gate:
    """A pipeline that holds the engine's thread until it is opened."""

    opened = threading.Event()

    def __call__(self):
        assert Gate.opened.wait(60)
        Gate.opened.clear()


class Raises:
    """A pipeline that raises the given error, before its first step."""

    def __call__(self, error):
        raise error


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), GreenletExit()])
def test_what_would_end_a_process_ends_one_generation(engine, flux, error):
    engine.add("it", flux)
    engine.add("raises", Raises())
    with pytest.raises(PipelineFailed, match=type(error).__name__):
        engine.submit(pipeline="raises", error=error).result(60)
    assert torch.equal(
        engine.submit(pipeline="it", **call()).result(60).images, run_without_engine(flux)
    )


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory."),
        MemoryError(),
        RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory"),
    ],
)
def test_running_out_of_memory_is_reported_as_that(engine, error):
    engine.add("raises", Raises())
    with pytest.raises(OutOfMemory):
        engine.submit(pipeline="raises", error=error).result(60)


def test_a_real_allocation_that_is_too_large_is_out_of_memory(engine):
    engine.add("it", lambda: torch.empty(2**60))
    with pytest.raises(OutOfMemory):
        engine.submit(pipeline="it").result(60)


class Stubborn:
    """A pipeline that catches everything and goes on."""

    def __init__(self):
        self.transformer = torch.nn.Identity()
        self.caught = 0

    def __call__(self):
        while True:
            try:
                self.transformer(torch.zeros(1))
            except BaseException:
                self.caught += 1


def test_a_pipeline_that_catches_everything_can_be_cancelled(engine, flux):
    engine.add("it", flux)
    engine.add("stubborn", Stubborn())
    stepped = Stepped()
    stubborn = engine.submit(pipeline="stubborn", on_progress=stepped)
    other = engine.submit(pipeline="it", **call())
    stepped.wait()
    stubborn.cancel()
    with pytest.raises(Cancelled):
        stubborn.result(60)
    assert torch.equal(other.result(60).images, run_without_engine(flux))


class Broken(torch.nn.Module):
    def forward(self, _):
        raise ArithmeticError("The denoiser is broken.")


class Careful:
    """A pipeline that tidies up behind a failing denoiser."""

    tidied = False

    def __init__(self):
        self.transformer = Broken()

    def __call__(self):
        try:
            self.transformer(torch.zeros(1))
        finally:
            Careful.tidied = True


def test_a_failing_denoiser_raises_where_the_pipeline_called_it(engine):
    engine.add("it", Careful())
    with pytest.raises(ArithmeticError, match="broken"):
        engine.submit(pipeline="it").result(60)
    assert Careful.tidied


def test_an_urgent_generation_overtakes_and_the_other_still_ends(engine):
    engine.add("it", Loop())
    engine.add("gate", Gate())
    gate = engine.submit(pipeline="gate")
    order = []
    slow = engine.submit(pipeline="it", steps=20, options=GenerationOptions(priority=0))
    urgent = engine.submit(pipeline="it", steps=20, options=GenerationOptions(priority=2))
    slow.add_done_callback(lambda _: order.append("slow"))
    urgent.add_done_callback(lambda _: order.append("urgent"))
    Gate.opened.set()
    for generation in (gate, slow, urgent):
        generation.result(60)
    engine.close()  # callbacks come after the result
    assert order == ["urgent", "slow"]


class Loop:
    def __init__(self):
        self.transformer = torch.nn.Identity()

    def __call__(self, steps):
        for _ in range(steps):
            self.transformer(torch.zeros(1))


class BrokenBatcher(StepBatcher):
    """A defect of the engine itself."""

    def choose(self, candidates, _turn):
        if candidates:
            raise ZeroDivisionError
        return ()


def test_a_defect_of_the_engine_ends_it_and_leaves_no_one_waiting(flux, caplog):
    engine = Engine(device="cpu", step_batcher=BrokenBatcher())
    engine.start()
    engine.add("it", flux)
    with pytest.raises(Cancelled):
        engine.submit(pipeline="it", **call()).result(60)
    engine.close(60)
    assert not engine.alive
    assert "defect" in caplog.text
