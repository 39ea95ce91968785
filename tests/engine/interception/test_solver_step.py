"""What is known of a step that a scheduler has made."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    UniPCMultistepScheduler,
)
from diffusers.schedulers.scheduling_minimax_h3 import MiniMaxH3Scheduler

from deployments.engine.interception.components import KnownDenoisers
from deployments.engine.interception.pipeline import InterceptedPipeline
from deployments.engine.interception.solver_step import SolverStep
from deployments.engine.loading.loader import load_pipeline
from serve_app.domain.endpoint import Weights
from tests.engine.demo_calls import DEMO

pytestmark = [pytest.mark.engine, pytest.mark.filterwarnings("ignore::DeprecationWarning")]

SOLVERS: dict[str, Any] = {
    "flow": FlowMatchEulerDiscreteScheduler(),
    "flow, heun": FlowMatchHeunDiscreteScheduler(),
    "flow, unipc": UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True),
    "euler": EulerDiscreteScheduler(),
    "euler, v": EulerDiscreteScheduler(prediction_type="v_prediction"),
    "ddim": DDIMScheduler(clip_sample=False),
    "ddim, v": DDIMScheduler(clip_sample=False, prediction_type="v_prediction"),
    "ddim, sample": DDIMScheduler(clip_sample=False, prediction_type="sample"),
    "dpm++": DPMSolverMultistepScheduler(),
    "unipc": UniPCMultistepScheduler(),
}


@pytest.mark.parametrize("name", SOLVERS)
def test_a_right_prediction_gives_the_clean_latents_at_every_step(name: str) -> None:
    solver = SOLVERS[name]
    chance = torch.Generator().manual_seed(0)
    clean = torch.randn(1, 4, 8, 8, generator=chance)
    noise = torch.randn(1, 4, 8, 8, generator=chance)
    solver.set_timesteps(6)
    flow = name.startswith("flow")
    latents = noise if flow else noise * solver.init_noise_sigma
    for number, timestep in enumerate(solver.timesteps):
        prediction = _right_prediction(solver, latents, clean, timestep, flow=flow)
        taken = solver.step(prediction, timestep, latents, return_dict=False)
        step = SolverStep.of(solver, (prediction, timestep, latents), {"return_dict": False}, taken)
        estimate = step.clean_latents()
        assert estimate is not None
        assert torch.allclose(estimate, clean, atol=2e-2), number
        latents = taken[0]


def _right_prediction(
    solver: Any, latents: torch.Tensor, clean: torch.Tensor, timestep: Any, *, flow: bool
) -> torch.Tensor:
    """What a denoiser that knows the image says of these latents."""
    if flow:
        sigma = timestep / 1000
        return (latents - clean) / sigma
    kind = solver.config.prediction_type
    share = solver.alphas_cumprod[int(timestep)]
    if hasattr(solver, "is_scale_input_called"):
        solver.scale_model_input(latents, timestep)  # as pipelines do, or it warns
        share = 1 / (solver.sigmas[solver.step_index] ** 2 + 1)
        latents = latents * share.sqrt()
    signal, spread = share.sqrt(), (1 - share).sqrt()
    noise = (latents - signal * clean) / spread
    return {"epsilon": noise, "sample": clean, "v_prediction": signal * noise - spread * clean}[
        kind
    ]


def test_a_velocity_towards_the_clean_latents_is_one_as_well() -> None:
    solver, clean = MiniMaxH3Scheduler(), torch.full((3, 4), 0.5)
    solver.set_timesteps(6)
    latents = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    timestep = solver.timesteps[0]
    velocity = (clean - latents) / (1 - timestep)
    taken = solver.step(velocity, timestep, latents, return_dict=False)
    estimate = SolverStep.of(solver, (velocity, timestep, latents), {}, taken).clean_latents()
    assert estimate is not None
    assert torch.allclose(estimate, clean, atol=1e-5)


def test_latents_that_the_output_is_written_over_are_known_as_they_were() -> None:
    """Kandinsky 5 and MiniMax H3 give a part of their latents, and write the output into it."""
    solver, clean = FlowMatchEulerDiscreteScheduler(), torch.full((1, 4), 0.5)
    solver.set_timesteps(6)
    latents = torch.randn(1, 8, generator=torch.Generator().manual_seed(0))
    part, timestep = latents[:, :4], solver.timesteps[0]
    velocity = (part - clean) / (timestep / 1000)
    taken = solver.step(velocity, timestep, part, return_dict=False)
    step = SolverStep.of(solver, (velocity, timestep, part), {}, taken)
    latents[:, :4] = taken[0]
    estimate = step.clean_latents()
    assert estimate is not None
    assert torch.allclose(estimate, clean, atol=1e-5)


def test_an_observer_is_handed_the_step_that_is_counted() -> None:
    """Where a pipeline writes the output over its latents, each step holds a copy of them."""
    observed: list[tuple[int, SolverStep]] = []

    class Observer:
        def on_step(self, number: int, step: SolverStep) -> Any:
            observed.append((number, step))
            return step.output

    counted: list[SolverStep | None] = []
    intercepted = InterceptedPipeline(load_pipeline(Weights(str(DEMO / "flux"))), KnownDenoisers())
    solver = intercepted.copy(counted.append, observer=Observer()).scheduler
    solver.set_timesteps(2, mu=0.5)
    solver.step(torch.ones(1, 4), solver.timesteps[0], torch.zeros(1, 8)[:, :4])
    [(number, seen)], [step] = observed, counted
    assert step is not None
    assert (number, seen.arguments is step.arguments) == (0, True)
