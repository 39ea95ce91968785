"""A load changes torch's default dtype for the whole process, and no generation sees it."""

import json
import shutil
import threading
import time
from collections import Counter

import pytest
import torch

from deployments.engine.default_dtype import TurnGate
from deployments.engine.engine import Engine
from deployments.engine.loading.loader import load_pipeline
from serve_app.domain.endpoint import Weights
from serve_app.domain.errors import Cancelled, WeightsUnavailable
from tests.engine.loops import Denoiser, Loop

pytestmark = [pytest.mark.engine, pytest.mark.filterwarnings("ignore::DeprecationWarning")]

START = torch.zeros(1, 2)


def test_no_step_runs_while_a_load_has_changed_the_default_dtype():
    seen = Counter()

    class Looking(Denoiser):
        def compute(self, latents, timestep):
            seen[torch.tensor([0.1]).dtype] += 1
            return super().compute(latents, timestep)

    with Engine(Loop(Looking()), threads=1) as engine:
        generation = engine.submit(start=START, steps=10**9)
        while not seen:
            time.sleep(0.001)
        for _ in range(3):
            pipeline = load_pipeline(Weights("deployments/demo/flux"), dtype="bfloat16")
            assert pipeline.transformer.dtype is torch.bfloat16
        generation.cancel()
        with pytest.raises(Cancelled):
            generation.result(60)
    assert seen.keys() == {torch.float32}


def test_a_model_that_cannot_be_built_leaves_the_default_dtype_as_it_was(tmp_path):
    shutil.copytree("deployments/demo/flux", tmp_path, dirs_exist_ok=True)
    config = tmp_path / "transformer" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"attention_head_dim": "wide"}))
    with pytest.raises(WeightsUnavailable):
        load_pipeline(Weights(str(tmp_path)), dtype="bfloat16")
    assert torch.get_default_dtype() is torch.float32


def test_a_change_waits_for_the_turn_that_runs_and_the_next_turn_for_the_change():
    gate, order = TurnGate(), []
    running, end_turn, changing, end_change = (threading.Event() for _ in range(4))

    def turn():
        with gate.turn():
            running.set()
            end_turn.wait(60)
            order.append("turn")
        with gate.turn():
            order.append("next turn")

    def change():
        running.wait(60)
        with gate.change():
            order.append("change")
            changing.set()
            end_change.wait(60)
            order.append("changed")

    threads = [threading.Thread(target=target) for target in (turn, change)]
    for thread in threads:
        thread.start()
    running.wait(60)
    while not gate.change_waits:
        time.sleep(0.001)
    end_turn.set()
    changing.wait(60)
    end_change.set()
    for thread in threads:
        thread.join()
    assert order == ["turn", "change", "changed", "next turn"]
