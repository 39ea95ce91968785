"""Merging harms no one: errors, memory, denoisers that cannot be merged, and what counts report."""

import gc
from contextlib import suppress

import pytest
import torch

from deployments.engine.engine import Engine
from serve_app.domain.errors import Misconfigured, OutOfMemory
from tests.engine.gate import Gate, merging_engine
from tests.engine.loops import (
    Denoiser,
    FailsTogether,
    Guided,
    Loop,
    Mixes,
    Refuses,
    Small,
    Writes,
)

pytestmark = pytest.mark.engine


def start(number, rows=1):
    return torch.full((rows, 4), float(number))


def together(engine, calls):
    """The generations, ended. All begin before one goes on."""
    gate = Gate(engine)
    running = [engine.submit(**call) for call in calls]
    gate.open()
    for generation in running:
        with suppress(Exception):
            generation.result(60)
    return running


def check_results(pipeline, engine, calls):
    """What they made, which is what they make alone."""
    alone = [pipeline(**call) for call in calls]
    running = together(engine, calls)
    for expected, generation in zip(alone, running, strict=True):
        assert torch.equal(generation.result(0), expected)
    return engine.counts()


def not_merged(engine):
    """Calls that ran alone, and why; the last generation has nobody to merge with at its end."""
    reasons = dict(engine.counts()["not_merged"])
    calls = sum(reasons.values())
    reasons.pop("nobody else", None)
    return calls, set(reasons)


def test_equal_calls_share_their_forwards_at_every_step():
    pipeline = Loop(Denoiser())
    with merging_engine(pipeline, max_batch=8) as engine:
        counts = check_results(
            pipeline, engine, [{"start": start(n), "steps": n + 2} for n in range(4)]
        )
    assert counts["merged_calls"] == 13
    assert counts["batch_sizes"] == {4: 2, 3: 1, 2: 1, 1: 1}
    assert counts["steps"] == 14


def test_no_more_share_a_forward_than_may():
    pipeline = Loop(Denoiser())
    with merging_engine(pipeline, max_batch=2, max_generations=5) as engine:
        counts = check_results(pipeline, engine, [{"start": start(n)} for n in range(5)])
    assert set(counts["batch_sizes"]) == {1, 2}


def test_who_halves_its_rows_gets_its_own_halves():
    pipeline = Loop(Guided())
    with merging_engine(pipeline) as engine:
        calls = [{"start": torch.tensor([[float(n)], [n + 1.0]])} for n in range(3)]
        counts = check_results(pipeline, engine, calls)
    assert counts["merged_calls"] == 9


def test_a_forward_that_fails_for_several_is_run_for_each_and_not_tried_again(caplog):
    pipeline = Loop(FailsTogether())
    with merging_engine(pipeline) as engine:
        calls = [{"start": start(n)} for n in range(3)]
        counts = check_results(pipeline, engine, calls)
        assert not_merged(engine) == (9, {"failed when merged"})
        assert counts["trial_forwards"] == 1
        assert check_results(pipeline, engine, calls)["trial_forwards"] == 1
    assert "failed when merged" in caplog.text


def test_one_that_fails_alone_as_well_fails_and_the_others_do_not():
    pipeline = Loop(Refuses())
    with merging_engine(pipeline) as engine:
        good, bad = together(engine, [{"start": start(1)}, {"start": start(-1)}])
        assert torch.equal(good.result(0), pipeline(start(1)))
        with pytest.raises(ArithmeticError):
            bad.result(0)


def test_what_does_not_fit_in_memory_together_is_halved_until_it_does(caplog):
    pipeline = Loop(Small())
    with merging_engine(pipeline) as engine:
        counts = check_results(pipeline, engine, [{"start": start(n)} for n in range(7)])
        assert counts["trial_forwards"] == 2  # seven, three
        assert max(counts["batch_sizes"]) <= 2
        again = check_results(pipeline, engine, [{"start": start(n)} for n in range(4)])
        assert again["trial_forwards"] == 2
    assert "did not fit in memory" in caplog.text


def test_one_that_does_not_fit_alone_fails_and_the_others_do_not():
    pipeline = Loop(Small())
    with merging_engine(pipeline) as engine:
        large, *rest = together(engine, [{"start": start(1, rows=3)}, *[{"start": start(2)}] * 2])
        with pytest.raises(OutOfMemory):
            large.result(0)
        for generation in rest:
            assert torch.equal(generation.result(0), pipeline(start(2)))


def test_a_first_merge_that_differs_is_found_and_no_one_gets_it(caplog):
    pipeline = Loop(Mixes())
    with merging_engine(pipeline, verify_merges=True) as engine:
        counts = check_results(pipeline, engine, [{"start": start(n)} for n in range(3)])
        assert counts["merged_calls"] == 0
        assert not_merged(engine) == (9, {"differs when merged"})
    assert "differs when merged" in caplog.text


def test_without_the_verification_it_is_not_found():
    """Or the test above would prove nothing."""
    pipeline = Loop(Mixes())
    with merging_engine(pipeline) as engine:
        first, _ = together(engine, [{"start": start(1)}, {"start": start(2)}])
        assert not torch.equal(first.result(0), pipeline(start(1)))


def test_a_verified_merge_is_merged_from_then_on():
    pipeline = Loop(Denoiser())
    with merging_engine(pipeline, verify_merges=True) as engine:
        counts = check_results(pipeline, engine, [{"start": start(n)} for n in range(3)])
    assert counts["merged_calls"] == 9
    assert counts["trial_forwards"] == 3


@pytest.mark.parametrize("verify", [False, True])
def test_a_denoiser_that_writes_into_its_inputs_gets_its_own(verify):
    pipeline = Loop(Writes())
    with merging_engine(pipeline, verify_merges=verify) as engine:
        counts = check_results(pipeline, engine, [{"start": start(n)} for n in range(3)])
        assert counts["merged_calls"] == 0
        assert not_merged(engine) == (9, {"writes into its inputs"})


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"extra": object()}, "opaque argument object"),
        ({"deterministic": True}, "deterministic"),
    ],
)
def test_the_reason_why_calls_are_not_merged_is_counted(more, reason):
    pipeline = Loop(Denoiser())
    with merging_engine(pipeline) as engine:
        together(engine, [{"start": start(n), **more} for n in range(2)])
        assert not_merged(engine) == (6, {reason})


def test_calls_of_other_shapes_or_values_are_counted_as_that():
    pipeline = Loop(Denoiser())
    with merging_engine(pipeline) as engine:
        together(engine, [{"start": start(1), "extra": 1}, {"start": start(1), "extra": 2}])
        assert engine.counts()["not_merged"]["other shapes or values"] >= 3


def test_arguments_of_any_kind_at_all_run_alone():
    class Odd(dict):
        def items(self):
            raise ZeroDivisionError

    pipeline = Loop(Denoiser())
    with merging_engine(pipeline) as engine:
        check_results(pipeline, engine, [{"start": start(1), "extra": Odd()}] * 2)
        assert not_merged(engine) == (6, {"planning failed"})


def test_what_was_found_out_goes_with_the_denoiser():
    pipeline = Loop(Denoiser())
    with merging_engine() as engine:
        engine.add("it", pipeline)
        together(engine, [{"start": start(n), "pipeline": "it"} for n in range(2)])
        assert len(engine._loop._model_runner.history) == 1
        engine.remove("it")
        del pipeline
        gc.collect()
        assert len(engine._loop._model_runner.history) == 0


def test_the_engine_runs_what_it_was_made_with_and_what_was_added():
    with merging_engine(Loop(Denoiser())) as engine:
        engine.add("other", Loop(Guided()))
        assert engine.submit(start=start(1), steps=1).result(60).tolist() == [[2.0] * 4]
        assert engine.submit(pipeline="other", start=start(1, 2), steps=1).result(60).shape == (
            2,
            4,
        )


def test_a_device_in_the_place_of_the_pipeline_is_reported():
    with pytest.raises(Misconfigured, match="device='cuda'"):
        Engine("cuda")
