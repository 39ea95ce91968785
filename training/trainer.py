"""The training loop: cosine decay by progress, averaged weights, checkpoints every minutes."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to train: for `minutes`, counted over all runs that share a checkpoint,
    or for a number of steps where a stage has to be done before the next can begin."""

    minutes: float
    peak_rate: float
    steps: float = math.inf
    warmup_steps: int = 100
    average_decay: float = 0.998
    checkpoint_every_s: float = 120.0


class Trainer:
    """Trains one module until its minutes are spent, and resumes from its checkpoint file.

    The averaged weights are what to ship: a run ends with them in the module. A run that resumes
    goes on with the step count, the optimiser and the time already spent. What has come to its end
    is done for good, whatever a later schedule grants: the stages after it are made of it.
    """

    def __init__(self, module: nn.Module, schedule: Schedule, checkpoint: Path) -> None:
        self.module = module
        self.schedule = schedule
        self.checkpoint = checkpoint
        self.step = 0
        self.spent_s = 0.0
        self.done = False
        self.average = {k: v.clone() for k, v in module.state_dict().items()}
        self.optimiser = torch.optim.AdamW(
            module.parameters(),
            lr=schedule.peak_rate,
            betas=(0.9, 0.98),
            weight_decay=0.01,
            fused=True,
        )

    def run(self, loss_of_step: Callable[[int], Tensor]) -> None:
        """Train on `loss_of_step(step)`, in bf16 where the operation allows it.

        Then the module has the averaged weights.
        """
        self.resume()
        last = saved = time.monotonic()
        while not self.done and self.progress() < 1.0:
            loss = self._advance(loss_of_step)
            now = time.monotonic()
            self.spent_s, last = self.spent_s + now - last, now
            if self.step % 50 == 0:
                print(f"{self.spent_s:7.0f} s  step {self.step:6d}  loss {loss:.5f}", flush=True)
            if now - saved > self.schedule.checkpoint_every_s:
                self.save()
                saved = now
        self.done = True
        self.save()
        self.module.load_state_dict(self.average)

    def progress(self) -> float:
        """The part of the minutes that is spent, or of the steps that are done."""
        schedule = self.schedule
        return max(self.spent_s / (60.0 * schedule.minutes), self.step / schedule.steps)

    def resume(self) -> None:
        """Take up the checkpoint, if there is one."""
        if not self.checkpoint.exists():
            return
        state = torch.load(self.checkpoint, weights_only=True)
        self.module.load_state_dict(state["module"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.average, self.step = state["average"], state["step"]
        self.spent_s, self.done = state["spent_s"], state["done"]

    def save(self) -> None:
        """Write the checkpoint; the old one stays whole until the new one is."""
        state = {
            "module": self.module.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "average": self.average,
            "step": self.step,
            "spent_s": self.spent_s,
            "done": self.done,
        }
        unfinished = self.checkpoint.with_suffix(".unfinished")
        torch.save(state, unfinished)
        unfinished.replace(self.checkpoint)

    def _advance(self, loss_of_step: Callable[[int], Tensor]) -> float:
        for group in self.optimiser.param_groups:
            group["lr"] = self._rate()
        loss = loss_of_step(self.step)
        self.optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.module.parameters(), 1.0)
        self.optimiser.step()
        self.step += 1
        self._average()
        return loss.item()

    def _rate(self) -> float:
        warmup = min(1.0, (self.step + 1) / self.schedule.warmup_steps)
        decay = 0.5 * (1.0 + math.cos(math.pi * min(1.0, self.progress())))
        return self.schedule.peak_rate * warmup * max(decay, 0.01)

    @torch.no_grad()
    def _average(self) -> None:
        # Young averages forget faster, or the untrained weights would linger in them.
        decay = min(self.schedule.average_decay, self.step / (self.step + 10.0))
        for name, value in self.module.state_dict().items():
            if value.is_floating_point():
                self.average[name].lerp_(value, 1.0 - decay)


def average_in(checkpoint: Path) -> dict[str, Tensor]:
    """The averaged weights that a `Trainer` left there."""
    return torch.load(checkpoint, weights_only=True)["average"]
