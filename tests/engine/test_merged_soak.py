"""Joins, cancels, failures and deadlines at random, merged: nothing is left, nobody is harmed."""

import gc
from random import Random

import pytest
import torch
from greenlet import greenlet

from deployments.engine.engine import Engine
from serve_app.domain.errors import Cancelled
from tests.engine.calls import call
from tests.engine.tiny import tiny_flux

pytestmark = pytest.mark.engine

SEEDS = 6


def fail(pipeline, step, timestep, tensors):
    raise ZeroDivisionError


class Crowd:
    """Generations of a few seeds, some of which are cancelled or fail."""

    def __init__(self, engine, expected):
        self._engine = engine
        self._expected = expected
        self._dice = Random(1)  # noqa: S311
        self.ended = {"made": 0, "cancelled": 0, "failed": 0}

    def run(self, count):
        running = []
        for _ in range(count):
            running.append(self._submit())
            if len(running) > 10:
                self._end(*running.pop(self._dice.randrange(len(running))))
        for each in running:
            self._end(*each)

    def _submit(self):
        seed, dice = self._dice.randrange(SEEDS), self._dice
        fate = dice.choice(["made", "made", "cancelled", "failed"])
        more = {"callback_on_step_end": fail} if fate == "failed" else {}
        generation = self._engine.submit(
            priority=dice.randrange(2),
            deadline_s=dice.choice([None, 1.0]),
            deterministic=dice.random() < 0.1,
            **call(seed=seed, steps=2 + seed, **more),
        )
        if fate == "cancelled" and dice.random() < 0.5:
            generation.cancel()
        return fate, seed, generation

    def _end(self, fate, seed, generation):
        if fate == "cancelled":
            generation.cancel()
        try:
            images = generation.result(60).images
        except Cancelled:
            self.ended["cancelled"] += 1
        except ZeroDivisionError:
            self.ended["failed"] += 1
        else:
            self.ended["made"] += 1
            assert (images - self._expected[seed]).abs().max() <= 1e-4


def alive(kind):
    gc.collect()
    return sum(issubclass(type(each), kind) for each in gc.get_objects())


def test_nothing_is_left_over_and_nobody_is_harmed():
    pipeline = tiny_flux()
    expected = [pipeline(**call(seed=seed, steps=2 + seed)).images for seed in range(SEEDS)]
    with Engine(pipeline, max_batch=4, max_generations=6, threads=1) as engine:
        crowd = Crowd(engine, expected)
        crowd.run(20)
        before = alive(torch.Tensor), alive(greenlet)
        crowd.run(80)
        assert alive(torch.Tensor) <= before[0] + 20
        assert alive(greenlet) <= before[1] + 2
        counts = engine.counts()
    assert sum(crowd.ended.values()) == 100
    assert min(crowd.ended.values()) > 5
    assert counts["merged_calls"] > counts["single_calls"]
    assert counts["trial_forwards"] == 0
    assert torch.equal(pipeline(**call(seed=3, steps=5)).images, expected[3])
