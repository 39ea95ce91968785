"""A generation that stands still while others go on."""

import threading

import pytest
import torch

from deployments.engine.engine import Engine
from deployments.engine.snapshot.format import Snapshot
from serve_app.domain.errors import Cancelled
from serve_app.domain.progress import Stage
from tests.engine.calls import call, run_without_engine
from tests.engine.gate import Gate

pytestmark = pytest.mark.engine


@pytest.fixture
def engine(flux):
    with Engine(flux, threads=1, max_batch=1, max_generations=4) as engine:
        yield engine


def paused_after(engine, step, **wish):
    """A generation that pauses itself when so many steps are done, and has done so."""

    def pause(progress):
        if progress.stage is Stage.DENOISING and progress.step == step:
            running[0].pause()
            there.set()

    gate, there = Gate(engine), threading.Event()
    running = [engine.submit(on_progress=pause, **call(**wish))]
    gate.open()
    assert there.wait(60)
    return running[0]


def test_it_stands_still_while_another_ends_and_then_goes_on_bit_for_bit(engine, flux):
    paused = paused_after(engine, 2, steps=5)
    other = engine.submit(**call(seed=2, steps=9))
    assert torch.equal(other.result(60).images, run_without_engine(flux, seed=2, steps=9))
    assert (paused.steps_done, paused.done()) == (2, False)
    paused.resume()
    assert torch.equal(paused.result(60).images, run_without_engine(flux, steps=5))


def test_it_gives_snapshots_and_others_go_on_from_them(engine, flux):
    paused = paused_after(engine, 2, steps=5)
    state = paused.snapshot(60)
    assert Snapshot.of_bytes(state).step == 2
    result = engine.submit(snapshot=state, **call(steps=5)).result(60)
    assert torch.equal(result.images, run_without_engine(flux, steps=5))
    assert not paused.done()


def test_one_that_has_not_begun_does_not_begin(engine):
    reported = []
    gate = Gate(engine)
    paused = engine.submit(on_progress=reported.append, **call())
    paused.pause()
    gate.open()
    engine.submit(**call()).result(60)
    assert reported == []
    paused.resume()
    paused.result(60)
    assert reported


def test_it_can_be_cancelled_with_nothing_else_to_do(engine):
    paused = paused_after(engine, 1, steps=5)
    paused.cancel()
    with pytest.raises(Cancelled):
        paused.result(60)
