"""A stage of training resumes where it was broken off, and once done it stays as it is."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from training.trainer import Schedule, Trainer  # noqa: E402

pytestmark = pytest.mark.engine


class _Interrupted(Exception):
    pass


def _trainer(checkpoint, *, steps):
    torch.manual_seed(0)
    schedule = Schedule(float("inf"), 1e-2, steps=steps, checkpoint_every_s=0.0)
    return Trainer(nn.Linear(2, 1), schedule, checkpoint)


def _loss(trainer, *, fails_at=None):
    def loss_of_step(step):
        if step == fails_at:
            raise _Interrupted
        return trainer.module(torch.full((1, 2), float(step))).square().mean()

    return loss_of_step


def test_a_stage_that_is_done_is_not_trained_on_when_more_is_granted(tmp_path):
    short = _trainer(tmp_path / "stage.pt", steps=3)
    short.run(_loss(short))
    longer = _trainer(tmp_path / "stage.pt", steps=30)
    longer.run(_loss(longer))
    assert longer.step == 3
    for name, value in short.average.items():
        assert torch.equal(longer.average[name], value)
        assert torch.equal(longer.module.state_dict()[name], value), "what to ship"


def test_a_stage_that_was_broken_off_comes_to_the_end_it_would_have_come_to(tmp_path):
    whole = _trainer(tmp_path / "whole.pt", steps=6)
    whole.run(_loss(whole))
    broken = _trainer(tmp_path / "stage.pt", steps=6)
    with pytest.raises(_Interrupted):
        broken.run(_loss(broken, fails_at=4))
    resumed = _trainer(tmp_path / "stage.pt", steps=6)
    resumed.run(_loss(resumed))
    assert resumed.step == 6
    for name, value in whole.average.items():
        assert torch.equal(resumed.average[name], value)
