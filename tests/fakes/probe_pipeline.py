"""The pipeline of ``ProbeFamily``. Apart, because it needs torch."""

from __future__ import annotations

import os
import signal
import time

import torch


class ProbeDenoiser(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gain = torch.nn.Parameter(torch.ones(1))

    def forward(self, latents: torch.Tensor, blocks_s: float) -> torch.Tensor:
        if blocks_s:
            time.sleep(blocks_s)
        return latents * self.gain


class ProbePipeline:
    """A denoising loop around a module that only waits. Returns the steps that it made."""

    def __init__(self) -> None:
        self.transformer = ProbeDenoiser()

    def __call__(
        self,
        *,
        num_inference_steps: int,
        step_s: float,
        crash_at_step: int | None,
        hang_s: float,
        fail: Exception | None,
    ) -> int:
        if num_inference_steps:
            latents = torch.zeros(1)
            for step in range(1, num_inference_steps + 1):
                if step == crash_at_step:
                    end_process()
                latents = self.transformer(latents, step_s + (hang_s if step == 1 else 0))
        if fail is not None:
            raise fail
        return num_inference_steps


def end_process() -> None:
    """As the kernel's out-of-memory killer does."""
    os.kill(os.getpid(), signal.SIGKILL)
