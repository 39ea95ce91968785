"""Forwards that are recorded and replayed, on a device that notes both and computes on the CPU."""

import logging
import threading
import weakref

import pytest
import torch

from deployments.engine.accelerator.cpu import UnlimitedMemory
from deployments.engine.loading.loads import LoadPlan
from deployments.engine.loading.residency import Residency
from deployments.engine.loop.graphs import MAX_GRAPHS, MAX_RELEASES, RUNS_BEFORE
from deployments.engine.lora.format import Lora
from deployments.engine.merging.compile import compile_regions, record_graphs
from deployments.engine.merging.late_code import Compilation
from serve_app.domain.endpoint import Recipe
from tests.engine.calls import call
from tests.engine.gate import Gate, merging_engine
from tests.engine.loras import save_lora
from tests.engine.repeating import small, start
from tests.engine.tiny import tiny_flux, tiny_sdxl
from tests.fakes.accelerator import FakeAccelerator, FakeGraphPool

pytestmark = [
    pytest.mark.engine,
    pytest.mark.usefixtures("one_torch_thread"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]

STEPS = RUNS_BEFORE + 3  # one of them is recorded, two are replayed
RESULT_S = 120


class Limited(UnlimitedMemory):
    """Memory that is counted, in which graphs may have 10 %."""

    def total(self):
        return 10**9


@pytest.fixture
def pipeline():
    return enable_recording(tiny_flux())


def enable_recording(pipeline):
    record_graphs(pipeline)
    return pipeline


def count_operations(accelerator):
    noted = [what for _, what in accelerator.operations]
    return noted.count("record graph"), noted.count("replay")


def draw(engine, **changes):
    return engine.submit(**call(**{"steps": STEPS, **changes})).result(RESULT_S).images


@pytest.mark.parametrize("make", [tiny_flux, tiny_sdxl])
def test_recorded_steps_give_the_bits_of_plain_ones(make):
    pipeline, accelerator = enable_recording(make()), FakeAccelerator()
    plain = pipeline(**call(steps=STEPS, seed=3)).images
    with merging_engine(pipeline, accelerator) as engine:
        image = draw(engine, seed=3)
        again = draw(engine, seed=3)
    assert torch.equal(image, plain)
    assert torch.equal(again, plain)
    records, replays = count_operations(accelerator)
    assert records == 1
    assert replays == 1 + 2 + STEPS  # a comparison, the rest of the first, all of the second


@pytest.mark.long
@pytest.mark.parametrize("make", [tiny_flux, tiny_sdxl])
def test_merged_forwards_have_graphs_of_their_own(make):
    pipeline, accelerator = enable_recording(make()), FakeAccelerator()
    plain = [pipeline(**call(steps=STEPS, seed=seed)).images for seed in range(3)]
    with merging_engine(pipeline, accelerator, verify_merges=False, max_batch=4) as engine:
        for _ in range(2):
            gate = Gate(engine)
            running = [engine.submit(**call(steps=STEPS, seed=seed)) for seed in range(3)]
            gate.open()
            images = [generation.result(RESULT_S).images for generation in running]
        assert engine.counts()["merged_calls"] >= 6 * (STEPS - 1)
    for image, other in zip(images, plain, strict=True):
        assert (image - other).abs().max() < 1e-4
    records, replays = count_operations(accelerator)
    assert records == 1
    assert replays > STEPS


@pytest.mark.long
def test_another_size_is_recorded_by_itself(pipeline):
    accelerator = FakeAccelerator()
    with merging_engine(pipeline, accelerator) as engine:
        for _ in range(2):
            for side in (32, 48):
                image = draw(engine, width=side, height=side)
                again = pipeline(**call(steps=STEPS, width=side, height=side)).images
                assert torch.equal(image, again)
    assert count_operations(accelerator)[0] == 2


def test_without_the_switch_nothing_is_recorded():
    accelerator = FakeAccelerator()
    with merging_engine(tiny_flux(), accelerator) as engine:
        draw(engine)
    assert count_operations(accelerator) == (0, 0)


def test_a_cpu_ignores_the_switch(pipeline, caplog):
    with merging_engine(pipeline) as engine:
        image = draw(engine)
    assert torch.equal(image, pipeline(**call(steps=STEPS)).images)
    assert "graphs" not in caplog.text


def test_a_deterministic_request_is_not_replayed(pipeline):
    accelerator = FakeAccelerator()
    with merging_engine(pipeline, accelerator) as engine:
        draw(engine)
        before = count_operations(accelerator)
        draw(engine, deterministic=True)
    assert count_operations(accelerator) == before


def test_requests_with_loras_run_as_written_and_others_are_replayed_beside_them(tmp_path):
    pipeline, accelerator = enable_recording(tiny_flux()), FakeAccelerator(discrete=False)
    plain = pipeline(**call(steps=STEPS)).images
    file = save_lora(tmp_path, pipeline, 1)
    with merging_engine(pipeline, accelerator, max_batch=1) as engine:
        first = draw(engine)
        before = count_operations(accelerator)
        with_lora = draw(engine, loras=[Lora(file, 0.1)])
        assert count_operations(accelerator) == before
        after = draw(engine)
    assert torch.equal(first, plain)
    assert torch.equal(after, plain)
    assert not torch.equal(with_lora, plain)
    assert count_operations(accelerator)[1] > before[1]


def test_graphs_are_dropped_when_weights_have_moved(pipeline):
    accelerator = FakeAccelerator()
    with merging_engine(pipeline, accelerator) as engine:
        draw(engine)
        for parameter in pipeline.transformer.parameters():
            parameter.data = parameter.data * 1.5
        image = draw(engine)
    assert torch.equal(image, pipeline(**call(steps=STEPS)).images)
    assert count_operations(accelerator)[0] == 2


@pytest.mark.long
@pytest.mark.parametrize(
    ("error", "records"),
    [
        (RuntimeError("operation not permitted when stream is capturing"), 1),
        (torch.OutOfMemoryError("The fake refuses."), 2),  # and again, later
    ],
)
def test_a_forward_that_cannot_be_recorded_runs_as_ever(pipeline, caplog, error, records):
    accelerator = FakeAccelerator()
    accelerator.refuse_recording(1, error)
    with merging_engine(pipeline, accelerator) as engine:
        image = draw(engine, steps=2 * STEPS)
    assert torch.equal(image, pipeline(**call(steps=2 * STEPS)).images)
    assert count_operations(accelerator)[0] == records
    assert ("not permitted" in caplog.text) is (records == 1)


def test_a_forward_that_writes_into_its_inputs_is_not_recorded(caplog):
    pipeline, accelerator = enable_recording(tiny_flux()), FakeAccelerator()
    forward = pipeline.transformer.forward

    def writing(hidden_states, *arguments, **keywords):
        output = forward(hidden_states, *arguments, **keywords)
        hidden_states.add_(0)
        return output

    pipeline.transformer.forward = writing
    with merging_engine(pipeline, accelerator) as engine:
        draw(engine)
    assert "writes into its inputs" in caplog.text
    assert count_operations(accelerator)[0] == 1


def test_a_recording_that_gives_other_values_is_not_used(caplog):
    pipeline, accelerator = enable_recording(tiny_flux()), FakeAccelerator()
    forward, calls = pipeline.transformer.forward, []

    def counting(*arguments, **keywords):
        calls.append(1)
        output = forward(*arguments, **keywords)
        return (output[0] * len(calls),) if len(calls) > RUNS_BEFORE + 1 else output

    pipeline.transformer.forward = counting
    with merging_engine(pipeline, accelerator) as engine:
        draw(engine)
    assert "gives other values" in caplog.text


def test_forwards_whose_weights_are_copied_to_the_device_are_not_recorded(caplog):
    accelerator = FakeAccelerator(discrete=False)
    with merging_engine(device=accelerator) as engine:
        residency = Residency(engine)
        recipe = Recipe(24, "float32", offload="components", hot=("vae",), graphs=True)
        plan = LoadPlan(lambda *_: tiny_flux(), recipe)
        residency.acquire("flux", plan).future.result(RESULT_S)
        draw(engine, pipeline="flux")
        residency.close()
    assert "hooks move its weights" in caplog.text
    assert count_operations(accelerator) == (0, 0)


class Compiler:
    """Waits for the whole device. ``may_end``: until then, it compiles."""

    def __init__(self, accelerator):
        self.accelerator = accelerator
        self.began, self.may_end = threading.Event(), threading.Event()

    def __call__(self, graph, _inputs):
        self.began.set()
        assert self.may_end.wait(RESULT_S)
        self.accelerator.synchronize()
        return graph


@pytest.fixture
def compiled_beside(pipeline):
    """Engine with a pipeline to record, and another one to compile when it is first called."""
    torch._dynamo.reset()
    accelerator, other = FakeAccelerator(), small()
    compiler = Compiler(accelerator)
    compile_regions(other, compiler)
    with merging_engine(pipeline, accelerator) as engine:
        engine.compile_later(other)
        engine.add_placed("other", other)
        yield engine, accelerator, compiler
        compiler.may_end.set()


@pytest.mark.long
def test_a_recording_is_put_off_while_another_model_is_compiled(pipeline, compiled_beside, caplog):
    engine, accelerator, compiler = compiled_beside
    engine.submit(pipeline="other", **start()).result(RESULT_S)
    assert compiler.began.wait(RESULT_S)
    image = draw(engine)
    assert count_operations(accelerator) == (0, 0)
    compiler.may_end.set()
    engine.finish_compiling()
    again = draw(engine)
    assert torch.equal(image, again)
    assert count_operations(accelerator) == (1, STEPS)
    assert "not recorded" not in caplog.text


def test_compiling_begins_when_a_recording_has_ended(pipeline, compiled_beside, caplog):
    engine, accelerator, compiler = compiled_beside
    began = []

    def another_model_asks_for_code():
        accelerator.while_recording = lambda: None
        compilation = Compilation(compiler_begins, 0, weakref.ref(pipeline.transformer))
        engine._compile_later(compilation)
        began.append(compiler.began.wait(0.3))

    def compiler_begins():
        compiler.began.set()
        accelerator.synchronize()

    accelerator.while_recording = another_model_asks_for_code
    draw(engine)
    engine.finish_compiling()
    assert began == [False]
    assert compiler.began.is_set()
    assert count_operations(accelerator)[0] == 1
    assert "not recorded" not in caplog.text


def test_a_recipe_switches_graphs_on_and_they_go_with_the_weights(caplog):
    caplog.set_level(logging.INFO)
    accelerator = FakeAccelerator(discrete=False)
    with merging_engine(device=accelerator) as engine:
        residency = Residency(engine)
        plan = LoadPlan(lambda *_: tiny_flux(), Recipe(24, "float32", graphs=True))
        residency.acquire("flux", plan).future.result(RESULT_S)
        draw(engine, pipeline="flux")
        assert count_operations(accelerator)[1] > 0
        graphs = engine._loop._graphs
        assert any(denoiser.graphs for denoiser in graphs._denoisers.values())
        engine.remove("flux")
        residency.close()
        assert not any(denoiser.graphs for denoiser in graphs._denoisers.values())


@pytest.mark.long
def test_memory_that_runs_out_takes_the_graphs(pipeline, caplog):
    accelerator = FakeAccelerator()
    with merging_engine(pipeline, accelerator) as engine:
        for _ in range(MAX_RELEASES):
            draw(engine)
            engine._loop._pressure.relieve()
        records = count_operations(accelerator)[0]
        image = draw(engine)
    assert torch.equal(image, pipeline(**call(steps=STEPS)).images)
    assert records == count_operations(accelerator)[0] == MAX_RELEASES
    assert "memory runs out beside its graphs" in caplog.text


def test_graphs_have_a_share_of_the_memory(pipeline, monkeypatch):
    accelerator = FakeAccelerator(Limited())
    with merging_engine(pipeline, accelerator) as engine:
        draw(engine)
        monkeypatch.setattr(FakeGraphPool, "size", 10**8)
        draw(engine, width=48, height=48)
    assert count_operations(accelerator)[0] == 1


@pytest.mark.long
def test_the_least_recently_used_graph_makes_room(pipeline, monkeypatch):
    monkeypatch.setattr("deployments.engine.loop.graphs.MAX_GRAPHS", 2)
    assert MAX_GRAPHS > 2
    accelerator = FakeAccelerator()
    with merging_engine(pipeline, accelerator) as engine:
        for side in (32, 48, 64, 48, 64, 32):
            draw(engine, width=side, height=side)
    # The first one was dropped for the third, and its runs were counted.
    assert count_operations(accelerator)[0] == 4
