"""Noise of half-done latents, by schedulers of all kinds: it is found, taken away and exchanged."""

from __future__ import annotations

import diffusers
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deployments.engine.drafting.noise import forget_earlier_steps, with_new_noise
from deployments.engine.interception.solver_step import SolverStep
from serve_app.domain.errors import Unsupported

pytestmark = [
    pytest.mark.engine,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # diffusers' use of numpy
]

FLOW = {"prediction_type": "flow_prediction", "use_flow_sigmas": True}
SOLVERS = {
    "FlowMatchEulerDiscreteScheduler": {},
    "EulerDiscreteScheduler": {},
    "EulerAncestralDiscreteScheduler": {},
    "DDIMScheduler": {},
    "DDPMScheduler": {},
    "DPMSolverMultistepScheduler": {},
    "UniPCMultistepScheduler": {},
    "UniPCMultistepScheduler of a flow": FLOW,
    "DPMSolverMultistepScheduler of a flow": FLOW,
    "EulerDiscreteScheduler of velocities": {"prediction_type": "v_prediction"},
    "DDIMScheduler of velocities": {"prediction_type": "v_prediction"},
}


OWN = 1
"""Seed of the latents. New noise of the same seed would be theirs."""


def run_steps(kind: str, steps: int = 10, stop: int = 4) -> tuple[SolverStep, torch.Tensor]:
    """A scheduler after ``stop`` steps of a model that always knows that the clean latents are
    0.5 everywhere, and the latents."""
    solver = getattr(diffusers, kind.split(maxsplit=1)[0])(**SOLVERS[kind])
    solver.set_timesteps(steps)
    generator = torch.Generator().manual_seed(OWN)
    clean = torch.full((1, 2, 8, 8), 0.5)
    latents = torch.randn(clean.shape, generator=generator) * getattr(
        solver, "init_noise_sigma", 1.0
    )
    step = None
    for number, timestep in enumerate(solver.timesteps[:stop]):
        if hasattr(solver, "scale_model_input"):
            solver.scale_model_input(latents, timestep)
        predicted = prediction(solver, latents, clean, number)
        taken = solver.step(predicted, timestep, latents, return_dict=False)
        step = SolverStep.of(solver, (predicted, timestep, latents), {"return_dict": False}, taken)
        latents = taken[0]
    assert step is not None
    return step, latents


def prediction(solver, latents, clean, number):
    """What a perfect model says at a step, by the definitions of the papers."""
    kind = solver.config.get("prediction_type", "flow_prediction")
    if kind == "flow_prediction":
        return (latents - clean) / solver.sigmas[number]
    share = solver.alphas_cumprod[int(solver.timesteps[number])]
    if "Euler" in type(solver).__name__:  # its latents are the clean ones plus sigma times noise
        latents = latents * share.sqrt()
    noise = (latents - share.sqrt() * clean) / (1 - share).sqrt()
    return noise if kind == "epsilon" else share.sqrt() * noise - (1 - share).sqrt() * clean


@pytest.mark.parametrize("kind", SOLVERS)
def test_the_clean_latents_that_a_step_was_made_with_are_found(kind):
    step, _ = run_steps(kind)
    latents = step.clean_latents()
    assert latents is not None
    assert (latents - 0.5).abs().max() < 0.02


@pytest.mark.parametrize("kind", SOLVERS)
def test_new_noise_is_as_strong_as_the_old_and_the_clean_latents_stay(kind):
    step, latents = run_steps(kind)
    level, clean = step.level_after(), step.clean_latents()
    assert level is not None
    assert clean is not None
    generator = torch.Generator().manual_seed(5)
    varied = with_new_noise(latents, clean, level, 1.0, generator)
    noise = (varied - level.signal * clean) / level.noise
    assert 0.8 < noise.std() < 1.2
    old = (latents - level.signal * clean) / level.noise
    assert abs(torch.corrcoef(torch.stack([old.flatten(), noise.flatten()]))[0, 1]) < 0.3


@settings(deadline=None, max_examples=25)
@given(strength=st.floats(0, 1), seed=st.integers(OWN + 1, 2**31))
def test_no_strength_changes_nothing_and_more_changes_more(strength, seed):
    step, latents = run_steps("FlowMatchEulerDiscreteScheduler")
    level, clean = step.level_after(), step.clean_latents()
    assert level is not None
    assert clean is not None

    def changed(by: float) -> float:
        generator = torch.Generator().manual_seed(seed)
        return float((with_new_noise(latents, clean, level, by, generator) - latents).abs().mean())

    assert changed(0.0) < 1e-6
    assert changed(strength / 2) <= changed(strength) + 1e-6


@pytest.mark.parametrize("kind", SOLVERS)
def test_the_share_of_noise_falls_from_step_to_step(kind):
    shares = [run_steps(kind, stop=stop)[0].level_after().share for stop in (1, 4, 8)]
    assert 1 >= shares[0] > shares[1] > shares[2] >= 0


def test_a_scheduler_that_is_not_known_has_no_estimate():
    class Unknown:
        def step(self, model_output, timestep, sample):
            return model_output, timestep, sample

    step = SolverStep.of(Unknown(), (torch.ones(1), 1, torch.ones(1)), {}, None)
    assert (step.clean_latents(), step.level_after()) == (None, None)


def test_a_multistep_scheduler_starts_again_with_first_order():
    step, _ = run_steps("UniPCMultistepScheduler")
    assert step.solver.lower_order_nums > 0
    forget_earlier_steps(step.solver)
    assert step.solver.lower_order_nums == 0
    assert step.solver.last_sample is None
    assert step.solver.model_outputs == [None, None]


def test_a_scheduler_between_two_predictions_of_a_step_keeps_its_noise():
    solver = diffusers.HeunDiscreteScheduler()
    solver.set_timesteps(4)
    latents = torch.ones(1, 2, 4, 4)
    timestep = solver.timesteps[0]
    solver.scale_model_input(latents, timestep)
    solver.step(latents, timestep, latents)
    with pytest.raises(Unsupported, match="between two predictions"):
        forget_earlier_steps(solver)
