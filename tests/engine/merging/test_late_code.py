"""After a load, requests run as written until there is code for their calls."""

import gc
import logging
import re
import weakref
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch._dynamo.utils import counters

from deployments.engine.engine import Engine
from deployments.engine.loading.loads import LoadPlan
from deployments.engine.loading.residency import Residency
from deployments.engine.loop.options import GenerationOptions
from deployments.engine.lora.format import Lora
from deployments.engine.memory import placement
from deployments.engine.memory.placement import placed_by
from deployments.engine.merging.compile import compile_decoder, compile_regions, regions_of
from deployments.engine.merging.late_code import MOST_FAILURES, MOST_KINDS
from serve_app.domain.endpoint import Recipe
from serve_app.domain.progress import Stage
from tests.engine.calls import call
from tests.engine.gate import Gate, merging_engine
from tests.engine.loras import save_lora
from tests.engine.repeating import small, start
from tests.engine.tiny import tiny_flux

pytestmark = [
    pytest.mark.engine,
    # What torch's compiler imports warns of itself.
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]

CALLS_OF_BLOCKS = 6  # two blocks in three steps


@pytest.fixture(autouse=True)
def afresh():
    torch._dynamo.reset()
    counters.clear()


def graphs():
    return counters["stats"]["unique_graphs"]


class Backend:
    """Compiles nothing, and counts the runs of its code. ``wrong``: its code computes wrongly."""

    def __init__(self, *, wrong=False):
        self.runs = 0
        self.wrong = wrong

    def __call__(self, graph, _inputs):
        def run(*inputs):
            self.runs += 1
            outputs = graph(*inputs)
            return [output + 1 if self.wrong else output for output in outputs]

        return run


class Later:
    """Engine whose compiler begins only when it is told to."""

    def __init__(self, monkeypatch, pipeline, backend, compile=compile_regions):
        self.asked = []
        self.pipeline = pipeline
        self.backend = backend
        monkeypatch.setattr(
            Engine, "_compile_later", lambda _, compilation: self.asked.append(compilation)
        )
        compile(pipeline, backend)
        self.engine = merging_engine(threads=1)

    def __enter__(self):
        self.engine.start()
        assert self.engine.compile_later(self.pipeline)
        self.engine.add_placed("it", self.pipeline)
        return self

    def __exit__(self, *_):
        self.engine.close()

    def compile(self):
        requests, self.asked = self.asked, []
        for request in requests:
            request.run()
        return len(requests)

    def generate(self, *calls, **more):
        """Results of generations that go together, and the runs of code meanwhile."""
        before = self.backend.runs
        gate = Gate(self.engine)
        running = [self.engine.submit(pipeline="it", **more, **fields) for fields in calls]
        gate.open()
        return [generation.result(100) for generation in running], self.backend.runs - before


@pytest.fixture
def later(monkeypatch):
    with Later(monkeypatch, small(), Backend()) as later:
        yield later


def plain(**arguments):
    with torch.no_grad():
        return small()(**arguments)


def test_nobody_waits_for_the_compiler_and_later_calls_run_its_code(later):
    results, runs = later.generate(start())
    assert torch.equal(results[0], plain(**start()))
    assert runs == 0
    assert later.compile() == 1
    for tokens in (4, 7, 16):
        results, runs = later.generate(start(tokens=tokens))
        assert torch.allclose(results[0], plain(**start(tokens=tokens)), atol=1e-6)
        assert runs == CALLS_OF_BLOCKS
    assert later.asked == []
    assert graphs() == 1


def test_merged_calls_get_code_of_their_own_once_for_all_numbers_of_rows(later):
    later.generate(start())
    later.compile()
    results, runs = later.generate(start(), start())
    assert runs == 0 or later.asked  # two rows had no code
    assert later.compile() == 1
    known = graphs()
    for rows in (2, 3):
        results, runs = later.generate(*[start()] * rows)
        for result in results:
            assert torch.allclose(result, plain(**start()), atol=1e-6)
        assert runs >= CALLS_OF_BLOCKS
    assert later.asked == []
    assert graphs() == known
    assert (
        len(later.pipeline.transformer.rehearsed_calls[later.pipeline.transformer.blocks[0]]) == 2
    )


def test_code_is_asked_for_once_while_it_is_compiled(later):
    for _ in range(3):
        later.generate(start())
    assert len(later.asked) == 1


def test_a_deterministic_generation_runs_as_written_though_there_is_code(later):
    later.generate(start())
    later.compile()
    results, runs = later.generate(start(), deterministic=True)
    assert torch.equal(results[0], plain(**start()))
    assert runs == 0
    assert later.generate(start())[1] == CALLS_OF_BLOCKS


def test_code_that_computes_something_else_is_not_used(monkeypatch, caplog):
    with Later(monkeypatch, small(), Backend(wrong=True)) as later:
        later.generate(start())
        later.compile()
        results, runs = later.generate(start())
        assert torch.equal(results[0], plain(**start()))
        assert runs == 0
    assert "computes something else than the block" in caplog.text
    assert "cannot be compiled and runs uncompiled" in caplog.text


def test_what_fails_to_compile_is_tried_a_few_times_and_runs_as_written(monkeypatch):
    tried = []

    def refuses(_graph, _inputs):
        tried.append(1)
        raise MemoryError("The device is full.")

    refuses.runs = 0
    with Later(monkeypatch, small(), refuses) as later:
        for _ in range(MOST_FAILURES + 2):
            results, _ = later.generate(start())
            assert torch.equal(results[0], plain(**start()))
            later.compile()
    assert len(tried) == MOST_FAILURES


def test_what_is_asked_for_after_many_kinds_of_calls_runs_as_written(later):
    module = later.pipeline.transformer
    with torch.no_grad():
        for number in range(MOST_KINDS + 3):
            module(torch.zeros(1, 4, 8), timestep=[0] * number + [torch.zeros(1)])
    assert len(later.asked) == MOST_KINDS


def test_a_failed_call_leaves_the_blocks_as_they_were_and_the_next_is_recorded(later):
    module = later.pipeline.transformer
    with torch.no_grad(), pytest.raises(RuntimeError):
        module(torch.zeros(1, 4, 9), timestep=0)
    assert all(region._compiled_call_impl is None for region, _ in regions_of(module))
    later.asked.clear()
    later.generate(start())
    later.compile()
    assert later.generate(start())[1] == CALLS_OF_BLOCKS


@pytest.mark.long  # 18 s of CPU for the graphs; test_compiled_loras.py is about code with LoRAs
def test_loras_of_the_first_requests_are_applied_and_theirs_get_code_too(monkeypatch, tmp_path):
    file = save_lora(tmp_path, tiny_flux(), seed=1)
    loras = [Lora(file, 1.0)]

    def wish(**more):
        return call(seed=1, steps=2, **more)

    with Engine(tiny_flux(), threads=1) as engine:
        expected = engine.submit(loras=loras, **wish()).result(100).images
        without = engine.submit(**wish()).result(100).images
    with Later(monkeypatch, tiny_flux(), Backend()) as later:
        blocks = len(regions_of(later.pipeline.transformer))

        def made(loras, compiled_steps):
            results, runs = later.generate(wish(), loras=loras)
            right = expected if loras else without
            assert torch.allclose(results[0].images, right, atol=1e-5)
            assert runs == compiled_steps * blocks
            return later.compile()

        assert made(loras, 0) == 1  # for calls without LoRAs
        assert made(loras, 0) == 1  # for LoRAs of this size
        made(loras, 2)
        made((), 2)
        made(loras, 2)
        for _ in range(3):  # merged: without LoRAs, with LoRAs, and with both kinds of code
            results, runs = later.generate(wish(), wish(), loras=loras)
            for result in results:
                assert torch.allclose(result.images, expected, atol=1e-5)
            later.compile()
        assert runs == 2 * blocks


@pytest.mark.long
def test_of_a_step_cache_nothing_is_recorded_and_its_requests_run_as_written(monkeypatch):
    caching = GenerationOptions(step_cache={"name": "FirstBlockCache", "threshold": 0.0})
    with Later(monkeypatch, tiny_flux(), Backend()) as later:
        later.generate(call(steps=2), options=caching)
        assert later.asked == []
        later.generate(call(steps=2))
        later.compile()
        assert later.generate(call(steps=2), options=caching)[1] == 0
        assert later.generate(call(steps=2))[1] > 0


@pytest.mark.long
def test_a_decoder_decodes_as_written_until_its_code_has_come(monkeypatch):
    expected = tiny_flux()(**call(steps=1)).images
    with Later(monkeypatch, tiny_flux(), Backend(), compile_decoder) as later:
        results, runs = later.generate(call(steps=1))
        assert torch.equal(results[0].images, expected)
        assert runs == 0
        assert later.compile() == 1
        results, runs = later.generate(call(steps=1))
        assert torch.allclose(results[0].images, expected, atol=1e-5)
        assert runs == 1
        results, runs = later.generate(call(steps=1), deterministic=True)
        assert torch.equal(results[0].images, expected)
        assert runs == 0
        assert later.generate(call(steps=1))[1] == 1


RECIPE = Recipe(24, "float32", compile=True)


@pytest.mark.parametrize(
    ("recipe", "options", "stages"),
    [
        (RECIPE, {}, [Stage.LOADING, Stage.WARMING_UP]),
        (
            RECIPE,
            {"compiles_first": True},
            [Stage.LOADING, Stage.COMPILING, Stage.WARMING_UP],
        ),
    ],
    ids=["while it is used", "before, if the engine is told to"],
)
def test_a_load_compiles_for_the_calls_of_its_warm_up(monkeypatch, recipe, options, stages):
    backend = Backend()
    monkeypatch.setattr(placement, "compile_regions", partial(compile_regions, backend=backend))
    seen = []
    with Engine(threads=1, **options) as engine:
        residency = Residency(engine)
        plan = LoadPlan(lambda *_: small(), recipe, lambda _: start())
        loan = residency.acquire("it", plan, lambda progress: seen.append(progress.stage))
        assert loan.future.result(110)
        engine.finish_compiling()
        before = backend.runs
        result = engine.submit(pipeline="it", **start()).result(100)
        assert backend.runs - before == CALLS_OF_BLOCKS
        assert torch.allclose(result, plain(**start()), atol=1e-6)
        residency.close()
    assert seen == stages


def test_the_log_says_what_was_compiled(later, caplog):
    caplog.set_level(logging.INFO)
    later.generate(start())
    later.compile()
    assert re.search(r"Compiled Repeating in [0-9.]+ s: Block\.", caplog.text)


@pytest.mark.parametrize(
    "other",
    [{"graphs": True}, {"offload": "components"}, {"offload": "blocks"}],
    ids=["graphs", "components that come and go", "blocks that come and go"],
)
def test_what_cannot_run_on_two_threads_is_compiled_before_it_is_used(other):
    assert placed_by(RECIPE, tiny_flux()).compiles_later
    assert not placed_by(replace(RECIPE, **other), tiny_flux()).compiles_later
    assert placed_by(replace(RECIPE, **other), tiny_flux()).compiles


def test_an_evicted_model_is_freed_though_it_is_still_to_be_compiled(monkeypatch):
    with Later(monkeypatch, small(), Backend()) as later:
        later.generate(start())
        transformer = later.pipeline.transformer
        freed = [
            weakref.ref(target) for target in (transformer, transformer.blocks[1].inner.weight)
        ]
        later.engine.remove("it")
        del later.pipeline, transformer
        gc.collect()
        assert [reference() for reference in freed] == [None, None]
        assert later.compile() == 1
    assert graphs() == 0


def test_blocks_of_other_sizes_or_settings_have_code_of_their_own(later):
    transformer = later.pipeline.transformer
    transformer.blocks[1].factor = 2.0
    later.generate(start())
    later.compile()
    assert later.generate(start())[1] == CALLS_OF_BLOCKS
