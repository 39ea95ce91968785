"""Images, videos and audio go on from any step: alone bit for bit, beside others within rounding,
whether the others were there before the snapshot or came after it."""

from __future__ import annotations

import multiprocessing
import random
import time
from collections.abc import Iterator
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext
from pathlib import Path

import pytest
import torch

from deployments.engine.engine import Engine
from deployments.engine.loading.loader import load_pipeline
from deployments.engine.snapshot.format import Snapshot
from serve_app.domain.endpoint import Weights
from tests.engine import killed
from tests.engine.demo_calls import CALLS, DEMO, call, made_of
from tests.engine.gate import Gate, merging_engine
from tests.engine.killed import LONG
from tests.engine.snapshot.test_format import AskAt, run_with_snapshots
from tests.samples import sample_params

pytestmark = [
    pytest.mark.engine,
    # torch, transformers and diffusers deprecate names of their own while they load.
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning"),
]

STEPS = 5
WITHIN = 1e-3  # of 1, where an image's level is 4e-3


@pytest.mark.variants(1)
@pytest.mark.parametrize("family", sample_params(CALLS, "flux", "sdxl"))
def test_one_that_had_company_or_gets_it_is_the_same_within_rounding(family: str) -> None:
    pipeline = load_pipeline(Weights(str(DEMO / family)))
    with merging_engine(pipeline, threads=1) as engine:
        whole, alone = run_with_snapshots(engine, [2], call(family, 1, STEPS), deterministic=True)
        same = engine.submit(
            snapshot=alone[2], deterministic=True, **call(family, 1, STEPS)
        ).result(60)
        assert torch.equal(made_of(same), made_of(whole))

        gate = Gate(engine)
        beside = [engine.submit(**call(family, seed, STEPS)) for seed in (2, 3)]
        asking = AskAt(2)
        first = engine.submit(on_progress=asking, **call(family, 1, STEPS))
        asking.watch(first)
        gate.open()
        first.result(60)
        assert engine.counts()["merged_calls"] > 0
        for generation in beside:
            generation.result(60)
        after = engine.submit(
            snapshot=asking.states()[2], deterministic=True, **call(family, 1, STEPS)
        ).result(60)

        merged_before = engine.counts()["merged_calls"]
        gate = Gate(engine)
        resumed = engine.submit(snapshot=alone[2], **call(family, 1, STEPS))
        beside = [engine.submit(**call(family, seed, STEPS)) for seed in (2, 3)]
        gate.open()
        among = resumed.result(60)
        assert engine.counts()["merged_calls"] > merged_before
    for result in (after, among):
        assert (made_of(result) - made_of(whole)).abs().max() <= WITHIN


@pytest.fixture(scope="module")
def fork_context() -> Iterator[ForkServerContext]:
    """Starts processes as forks of one that has imported torch and diffusers, which takes longer
    than what they then do."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([killed.__name__])
    yield context
    forkserver._forkserver._stop()


@pytest.mark.long
@pytest.mark.parametrize("family", sample_params(CALLS, "flux"))
def test_what_a_process_was_killed_in_goes_on_in_another_bit_for_bit(
    family: str, tmp_path: Path, chance: random.Random, fork_context: ForkServerContext
) -> None:
    file, step = tmp_path / "snapshot", chance.randint(1, LONG // 2)
    doomed = fork_context.Process(target=killed.main, args=(family, file))
    doomed.start()
    try:
        while not (file.exists() and Snapshot.of_bytes(file.read_bytes()).step >= step):
            assert doomed.is_alive(), "it ended by itself"
            time.sleep(0.01)
    finally:
        doomed.kill()
        doomed.join()
        doomed.close()
    state = file.read_bytes()
    with Engine(load_pipeline(Weights(str(DEMO / family))), threads=1) as engine:
        again, whole = (
            engine.submit(deterministic=True, snapshot=snapshot, **call(family, 1, LONG))
            for snapshot in (state, None)
        )
        assert torch.equal(made_of(again.result(60)), made_of(whole.result(60)))
        assert engine.counts()["steps"] == 2 * LONG - Snapshot.of_bytes(state).step
