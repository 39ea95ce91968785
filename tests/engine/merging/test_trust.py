"""Few sizes are compared with what their calls give alone, and what mixes rows is found."""

import pytest
import torch

from deployments.engine.merging.trust import MERGES, SHAPES, MergeTrust, PatternTrust
from tests.engine.gate import Gate, merging_engine
from tests.engine.loops import Denoiser, Loop, Mixes

pytestmark = pytest.mark.engine


class MixesWide(Mixes):
    """Lets rows see each other if they are wider than ``width``."""

    def __init__(self, width):
        super().__init__()
        self.width = width

    def compute(self, latents, timestep):
        if latents.shape[1] <= self.width:
            return latents * 2 + timestep
        return super().compute(latents, timestep)


def together(engine, pipeline, width, *, calls=2, steps=1, **more):
    """Trial forwards of that many generations, whose results are those that they have alone."""
    before = engine.counts()["trial_forwards"]
    starts = [torch.arange(width).float()[None] + 7 * number for number in range(calls)]
    gate = Gate(engine)
    running = [engine.submit(start=start, steps=steps, **more) for start in starts]
    gate.open()
    for generation, start in zip(running, starts, strict=True):
        output = generation.result(60)
        pipeline.transformer.rows, kept = [], pipeline.transformer.rows
        assert torch.equal(output, pipeline(start, steps=steps, **more))
        pipeline.transformer.rows = kept
    return engine.counts()["trial_forwards"] - before


def engine_of(pipeline):
    return merging_engine(pipeline, verify_merges=True, max_batch=8)


def test_after_three_sizes_have_agreed_new_ones_cost_no_forward():
    pipeline = Loop(Denoiser())
    with engine_of(pipeline) as engine:
        trials = [together(engine, pipeline, width) for width in range(4, 10)]
    assert trials == [2, 2, 2, 0, 0, 0]


def test_eight_calls_are_compared_by_two_of_them():
    pipeline = Loop(Denoiser())
    with engine_of(pipeline) as engine:
        assert together(engine, pipeline, 4, calls=8) == 2
        counts = engine.counts()
    assert pipeline.transformer.rows == [2, 1, 1, 6]  # two, each of them alone, the others
    assert counts["merged_calls"] == 8


def test_no_call_runs_alone_because_two_of_three_were_compared():
    pipeline = Loop(Denoiser())
    with engine_of(pipeline) as engine:
        together(engine, pipeline, 4, calls=3)
        assert engine.counts()["batch_sizes"] == {3: 1}


def test_of_those_that_mix_rows_nobody_gets_a_merged_result():
    pipeline = Loop(Mixes())
    with engine_of(pipeline) as engine:
        for width in range(4, 9):
            together(engine, pipeline, width, calls=8)
        assert engine.counts()["merged_calls"] == 0


def test_a_size_with_other_roles_is_not_trusted_because_of_others():
    """An argument that is as long as there are rows looks as if it had one entry for each."""
    pipeline = Loop(TakesExtra())
    with engine_of(pipeline) as engine:
        for width in range(4, 9):
            together(engine, pipeline, width, extra=torch.ones(3, 2))
        assert together(engine, pipeline, 9, extra=torch.ones(1, 2)) == 2


class TakesExtra(Denoiser):
    def forward(self, hidden_states, timestep, extra=None):
        return super().forward(hidden_states, timestep)


def test_other_dtypes_and_rows_are_compared_for_themselves():
    pipeline = Loop(Denoiser())
    with engine_of(pipeline) as engine:
        for width in range(4, 9):
            together(engine, pipeline, width)
        before = engine.counts()["trial_forwards"]
        gate = Gate(engine)
        starts = [torch.ones(1, 4).double() * n for n in range(2)]
        running = [engine.submit(start=start, steps=1) for start in starts]
        running += [engine.submit(start=torch.ones(2, 4) * n, steps=1) for n in range(2)]
        gate.open()
        for generation in running:
            generation.result(60)
        assert engine.counts()["trial_forwards"] - before == 4


def test_a_size_that_is_used_is_compared_at_last_and_its_trust_is_lost(caplog):
    """The bound of the damage of a model that mixes rows of some sizes only."""
    pipeline = Loop(MixesWide(width=8))
    starts = [torch.arange(9).float()[None] + 7 * number for number in range(2)]
    with engine_of(pipeline) as engine:
        for width in range(4, 4 + SHAPES):
            together(engine, pipeline, width)
        assert together(engine, pipeline, 8) == 0  # trusted unseen, rightly
        gate = Gate(engine)
        running = [engine.submit(start=start, steps=MERGES + 1) for start in starts]
        gate.open()
        for generation in running:
            generation.result(60)
        assert "differs when merged" in caplog.text
        assert together(engine, pipeline, 9) == 0  # refused for good, so right again
        assert together(engine, pipeline, 10) == 1  # a new one is compared, and found
        assert together(engine, pipeline, 8) == 2  # so is one that was trusted unseen
        assert together(engine, pipeline, 8) == 0


def test_one_of_many_new_sizes_is_compared_again_and_again():
    pattern = PatternTrust()
    compared = []
    for size in range(1, 65):
        trust = MergeTrust(pattern)
        if trust.compares():
            compared.append(size)
            trust.record_comparison(equal=True)
        trust.record_merge()
    assert compared == [1, 2, 3, 8, 16, 32, 64]


def test_a_difference_ends_the_trust_in_what_was_trusted_unseen_and_in_new_sizes():
    pattern = PatternTrust()
    seen = [MergeTrust(pattern) for _ in range(SHAPES)]
    for trust in seen:
        trust.record_comparison(equal=True)
        trust.record_merge()
    unseen, bad = MergeTrust(pattern), MergeTrust(pattern)
    unseen.record_merge()
    assert not unseen.compares()
    bad.record_comparison(equal=False)
    assert unseen.compares()
    assert MergeTrust(pattern).compares()
    assert not any(trust.compares() for trust in seen)
