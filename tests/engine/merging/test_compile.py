"""What denoisers repeat is compiled before anybody gets it, and gives what it gave."""

from functools import partial

import pytest
import torch
from torch._dynamo.utils import counters

from deployments.engine.accelerator.selection import accelerator_for
from deployments.engine.engine import Engine
from deployments.engine.interception.model_traits import KNOWN
from deployments.engine.loading.loads import LoadPlan
from deployments.engine.loading.residency import Residency
from deployments.engine.lora.format import Lora
from deployments.engine.memory import placement
from deployments.engine.memory.placement import placed_by
from deployments.engine.merging.compile import (
    DIVIDES_ROWS,
    compile_decoder,
    compile_regions,
    regions_of,
    rehearse,
)
from serve_app.domain.endpoint import Recipe
from serve_app.domain.errors import Misconfigured
from serve_app.domain.progress import Stage
from tests.engine.calls import call
from tests.engine.gate import Gate, merging_engine
from tests.engine.loops import Denoiser, Loop
from tests.engine.loras import save_lora
from tests.engine.repeating import small, start
from tests.engine.tiny import tiny_flux, tiny_sdxl
from tests.fakes.accelerator import FakeAccelerator

pytestmark = [
    pytest.mark.engine,
    # What torch's compiler imports warns of itself.
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]

COMPILED = Recipe(24, "float32", compile=True)
SIZES = [(1, 16), (2, 32)]  # seed and width


def graphs():
    return counters["stats"]["unique_graphs"]


@pytest.fixture(autouse=True)
def afresh():
    torch._dynamo.reset()
    counters.clear()


def generate_together(engine, calls, name="it"):
    """By generations that go together."""
    gate = Gate(engine)
    running = [engine.submit(pipeline=name, **fields) for fields in calls]
    gate.open()
    return [generation.result(100) for generation in running]


def test_after_a_rehearsal_nothing_is_compiled_for_other_rows_and_sizes():
    """On the engine's thread everybody would wait for it."""
    plain, pipeline = small(), small()
    calls = [start(tokens=tokens, value=tokens / 8) for tokens in (4, 6, 16)]
    with torch.no_grad():
        expected = [plain(**fields) for fields in calls]
    compile_regions(pipeline, "eager")
    with merging_engine(threads=1) as engine:
        engine.precompile(pipeline, start)
        known = graphs()
        assert known == 2  # of one row, and of any other number
        engine.add_placed("it", pipeline)
        for arguments, reference in zip(calls, expected, strict=True):
            assert torch.allclose(
                engine.submit(pipeline="it", **arguments).result(100), reference, atol=1e-6
            )
            for merged in (2, 3):
                for its in generate_together(engine, [arguments] * merged):
                    assert torch.allclose(its, reference, atol=1e-6)
        assert {1, 2, 3} <= engine.counts()["batch_sizes"].keys()
    assert graphs() == known


def counting_backend():
    """Backend that compiles nothing, and a list with an item for each run of its code."""
    runs = []

    def counting(graph, _inputs):
        def run(*inputs):
            runs.append(1)
            return graph(*inputs)

        return run

    return counting, runs


@pytest.mark.parametrize("divides", [False, True])
def test_where_devices_divide_rows_single_rows_are_compiled_as_well(divides):
    counting, runs = counting_backend()
    pipeline = small()
    compile_regions(pipeline, counting)
    vars(pipeline.transformer)[DIVIDES_ROWS] = divides
    rehearse(pipeline, partial(start, rows=2), KNOWN)
    before = len(runs)
    with torch.no_grad():
        pipeline(**start(rows=1))
    assert len(runs) - before == (6 if divides else 0)  # two blocks in three steps


@pytest.mark.long
def test_models_with_blocks_of_one_class_are_all_compiled():
    """torch compiles a function eight times by default, and all of them have the same one."""
    widths = (8, 16, 24, 32, 40, 48)
    with Engine(threads=1) as engine:
        for width in widths:
            pipeline = small(width)
            compile_regions(pipeline, "eager")
            engine.precompile(pipeline, partial(start, width=width))
    assert graphs() == 2 * len(widths)


def test_what_the_rehearsal_did_not_meet_runs_as_written_and_nobody_waits_for_a_compiler():
    counting, runs = counting_backend()
    plain, pipeline = small(), small()
    compile_regions(pipeline, counting)
    with Engine(threads=1) as engine:
        engine.precompile(pipeline, start)
        known = graphs()
        engine.add_placed("it", pipeline)
        before = len(runs)
        engine.submit(pipeline="it", **start(tokens=7)).result(100)
        assert len(runs) == before + 6  # two blocks in three steps
        plain.transformer.double(), pipeline.transformer.double()
        other = {"start": start()["start"].double()}
        with torch.no_grad():
            expected = plain(**other)
        assert torch.equal(engine.submit(pipeline="it", **other).result(100), expected)
        assert len(runs) == before + 6
    assert graphs() == known


def test_a_rehearsal_has_a_stream_of_its_own_and_makes_measurements_unreliable():
    device, seen = FakeAccelerator(), []
    pipeline = small()
    compile_regions(pipeline, "eager")
    with Engine(device=device, threads=1) as engine:

        def arguments():
            with engine._memory.measure() as taken:
                pass
            seen.append((device.current_stream.name, taken.reliable))
            return start()

        engine.precompile(pipeline, arguments)
        with engine._memory.measure() as taken:
            pass
    assert seen == [("compile", False)]
    assert taken.reliable
    assert device.operations[-1] == ("compile", "synchronize")


@pytest.mark.long
def test_a_pipeline_of_diffusers_makes_the_same_images_compiled_alone_and_merged():
    wishes = [call(prompt=f"a lighthouse {seed}", seed=seed, steps=3) for seed in (1, 2)]
    with torch.no_grad():
        expected = [tiny_sdxl()(**fields).images for fields in wishes]
    wishes = [call(prompt=f"a lighthouse {seed}", seed=seed, steps=3) for seed in (1, 2)]
    pipeline = tiny_sdxl()
    compile_regions(pipeline, "eager")
    with merging_engine(pipeline, threads=1) as engine:
        engine.precompile(pipeline, lambda: call(seed=9, steps=1))
        known = graphs()
        assert known > 0
        for seed, reference in zip((1, 2), expected, strict=True):
            wish = call(prompt=f"a lighthouse {seed}", seed=seed, steps=3)
            assert torch.allclose(engine.submit(**wish).result(100).images, reference, atol=1e-5)
        gate = Gate(engine)
        running = [engine.submit(**fields) for fields in wishes]
        gate.open()
        for generation, reference in zip(running, expected, strict=True):
            assert torch.allclose(generation.result(100).images, reference, atol=1e-5)
        assert 2 in engine.counts()["batch_sizes"]
    assert graphs() == known


@pytest.mark.long
def test_while_there_is_no_code_for_loras_the_blocks_run_as_they_are(tmp_path, monkeypatch):
    later = []
    monkeypatch.setattr(Engine, "_compile_later", lambda _, compile_all: later.append(compile_all))
    file = save_lora(tmp_path, tiny_sdxl(), seed=1)
    loras = [Lora(file, 1.0)]

    def wish(seed):
        return call(seed=seed, steps=2)

    with Engine(tiny_sdxl(), threads=1) as engine:
        expected = engine.submit(loras=loras, **wish(1)).result(100).images
        without = engine.submit(**wish(2)).result(100).images
    pipeline = tiny_sdxl()
    compile_regions(pipeline, "eager")
    with merging_engine(pipeline, threads=1) as engine:
        engine.precompile(pipeline, lambda: wish(9))
        known = graphs()
        gate = Gate(engine)
        running = [engine.submit(loras=loras, **wish(1)), engine.submit(**wish(2))]
        gate.open(running)
        images = [generation.result(100).images for generation in running]
        assert 2 in engine.counts()["batch_sizes"]
    for its, reference in zip(images, (expected, without), strict=True):
        assert torch.allclose(its, reference, atol=1e-5)
    assert graphs() == known
    assert len(later) == 1  # asked for once
    regions = pipeline.unet.compiled_regions  # closing has taken the LoRAs off
    assert regions
    assert all(block._compiled_call_impl is compiled for block, compiled in regions)


@pytest.mark.long
def test_weights_are_compiled_on_the_loaders_thread_before_anybody_gets_them(monkeypatch):
    """Not by Inductor, whose compiler takes a quarter of a minute: docs/explanation/engine.md
    has its figures."""
    quick = partial(compile_regions, backend="aot_eager")
    monkeypatch.setattr(placement, "compile_regions", quick)
    pipeline = small()
    with torch.no_grad():
        expected = small()(**start())
    stages = []
    with Engine(threads=1, compiles_first=True) as engine:
        residency = Residency(engine)
        plan = LoadPlan(lambda *_: pipeline, COMPILED, lambda _: start())
        loan = residency.acquire("it", plan, lambda progress: stages.append(progress.stage))
        assert loan.future.result(110) is pipeline
        known = graphs()
        for result in [
            *generate_together(engine, [start()]),
            *generate_together(engine, [start()] * 2),
        ]:
            assert torch.allclose(result, expected, atol=1e-6)
        assert graphs() == known == 2
        residency.close()
    assert stages == [Stage.LOADING, Stage.COMPILING, Stage.WARMING_UP]


@pytest.mark.long
def test_a_compiled_decoder_runs_for_other_rows_and_sizes_and_nothing_is_compiled_then():
    counting, runs = counting_backend()
    calls = [partial(call, seed=seed, width=side, steps=1) for seed, side in SIZES]
    expected = [tiny_flux()(**make_call()).images for make_call in calls]
    pipeline = tiny_flux()
    compile_decoder(pipeline, counting)
    with Engine(threads=1) as engine:
        engine.precompile(pipeline, partial(call, steps=1))
        known = graphs()
        assert known >= 2  # of one row, and of any other number
        before = len(runs)
        engine.add_placed("it", pipeline)
        alone = [
            engine.submit(pipeline="it", **make_call()).result(100).images for make_call in calls
        ]
        assert len(runs) > before
        merged = generate_together(engine, [make_call() for make_call in calls * 2])
    assert graphs() == known
    for image, right in zip(
        [*alone, *(output.images for output in merged)], expected * 3, strict=True
    ):
        assert torch.allclose(image, right, atol=1e-5)


@pytest.mark.long
def test_a_decoder_that_cannot_be_compiled_decodes_as_it_is(caplog):
    def refuses(_graph, _inputs):
        raise NotImplementedError("No compiler here.")

    expected, pipeline = tiny_flux()(**call()).images, tiny_flux()
    compile_decoder(pipeline, refuses)
    rehearse(pipeline, partial(call, steps=1), KNOWN)
    assert torch.equal(pipeline(**call()).images, expected)
    assert "cannot be compiled and runs uncompiled" in caplog.text


@pytest.mark.long
def test_a_recipe_compiles_the_decoder_of_images_and_refuses_other_ones():
    recipe = Recipe(24, "float32", compile_decoder=True)
    pipeline = tiny_flux()
    placed = placed_by(recipe, pipeline)
    placed.apply(accelerator_for("cpu"))
    assert placed.compiles
    assert regions_of(pipeline.vae)
    with pytest.raises(Misconfigured, match="`compile_decoder`"):
        placed_by(recipe, Loop(Denoiser())).apply(accelerator_for("cpu"))


def test_what_cannot_be_compiled_runs_as_it_is(caplog):
    def refuses(_graph, _inputs):
        raise NotImplementedError("No compiler here.")

    pipeline = small()
    with torch.no_grad():
        expected = small()(**start())
    compile_regions(pipeline, refuses)
    with Engine(threads=1) as engine:
        engine.precompile(pipeline, start)
        engine.add_placed("it", pipeline)
        assert torch.equal(engine.submit(pipeline="it", **start()).result(100), expected)
    assert "cannot be compiled and runs uncompiled" in caplog.text


def test_a_pipeline_of_which_nothing_can_be_compiled_says_so():
    with pytest.raises(Misconfigured, match="`compile`"):
        placed_by(COMPILED, Loop(Denoiser())).apply(accelerator_for("cpu"))


@pytest.mark.long
def test_a_rehearsal_leaves_the_solver_as_it_was():
    pipeline = tiny_sdxl()
    before = dict(vars(pipeline.scheduler))
    compile_regions(pipeline, "eager")
    rehearse(pipeline, lambda: call(seed=9, steps=1), KNOWN)
    assert vars(pipeline.scheduler).keys() == before.keys()
    assert pipeline.scheduler.num_inference_steps == before["num_inference_steps"]
