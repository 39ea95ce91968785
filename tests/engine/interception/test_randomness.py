"""Pipelines that draw from torch's global random state get the same beside others as alone."""

import pytest
import torch

from deployments.engine.engine import Engine
from tests.engine.gate import Gate, merging_engine
from tests.engine.loops import Denoiser

pytestmark = pytest.mark.engine


class Careless:
    """Draws from the global state before and between its steps, whatever generator it has."""

    def __init__(self):
        self.transformer = Denoiser()

    def __call__(self, steps, generator=None):
        latents = torch.randn(1, 4)
        for step in range(steps):
            latents = self.transformer(latents, timestep=step) + torch.randn(1, 4)
        return latents


class StableDiffusion3ControlNetPipeline(Careless):
    """Has the name of one that is known for it."""


def make_generator(seed):
    return torch.Generator().manual_seed(seed)


def together(pipeline, wishes):
    with merging_engine(pipeline, max_batch=4) as engine:
        gate = Gate(engine)
        running = [
            engine.submit(steps=steps, generator=make_generator(seed)) for seed, steps in wishes
        ]
        gate.open()
        return [generation.result(60) for generation in running]


def run_alone(pipeline, seed, steps):
    torch.manual_seed(seed)
    return pipeline(steps=steps)


WISHES = [(1, 4), (2, 6), (1, 4)]


def test_each_draws_as_if_alone_after_its_own_seed_and_no_other_notices():
    pipeline = StableDiffusion3ControlNetPipeline()
    expected = [run_alone(pipeline, *wish) for wish in WISHES]
    torch.manual_seed(77)
    before = torch.get_rng_state()
    results = together(pipeline, WISHES)
    assert torch.equal(torch.get_rng_state(), before)
    for result, its in zip(results, expected, strict=True):
        assert torch.equal(result, its)


def test_others_share_the_state_and_it_shows():
    """Or the test above would prove nothing."""
    first, _, again = together(Careless(), WISHES)
    assert not torch.equal(first, again)


def test_without_a_generator_nothing_repeats():
    pipeline = StableDiffusion3ControlNetPipeline()
    with Engine(pipeline) as engine:
        first, other = (engine.submit(steps=3).result(60) for _ in range(2))
    assert not torch.equal(first, other)


def test_a_resumed_one_draws_on_where_it_was():
    pipeline = StableDiffusion3ControlNetPipeline()
    expected = run_alone(pipeline, 5, 6)
    running, snapshots = [], []

    def ask(progress):
        if progress.step == 3:
            snapshots.append(running[0].request_snapshot())

    with merging_engine(pipeline) as engine:
        gate = Gate(engine)
        running.append(engine.submit(steps=6, generator=make_generator(5), on_progress=ask))
        gate.open()
        assert torch.equal(running[0].result(60), expected)
        state = snapshots[0].result(60)
        assert state.step == 3
        resumed = engine.submit(steps=6, generator=make_generator(5), snapshot=state.to_bytes())
        assert torch.equal(resumed.result(60), expected)
