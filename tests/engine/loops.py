"""Pipelines of a few lines, around denoisers that misbehave in one way each."""

import torch


class Loop:
    """Calls its denoiser ``steps`` times on ``start`` [rows, any]."""

    def __init__(self, denoiser):
        self.transformer = denoiser

    def __call__(self, start, steps=3, num_inference_steps=0, **more):
        latents = start.clone()
        for step in range(steps):
            latents = self.transformer(latents, timestep=step, **more)
        return latents


class Denoiser(torch.nn.Module):
    """Keeps the sizes of what it was called with."""

    def __init__(self):
        super().__init__()
        self.rows = []

    def forward(self, hidden_states, timestep, extra=None):
        self.rows.append(len(hidden_states))
        timestep = torch.as_tensor(timestep, dtype=hidden_states.dtype).expand(len(hidden_states))
        return self.compute(hidden_states, timestep[:, None])

    def compute(self, latents, timestep):
        return latents * 2 + timestep


class Prompted(Denoiser):
    """Depends on ``extra`` [rows, any]."""

    def forward(self, hidden_states, timestep, extra=None):
        self.rows.append(len(hidden_states))
        return hidden_states / 2 + extra * (timestep + 1)


class Guiding:
    """Calls its denoiser twice in each step, one after the other.

    ``otherwise``: what is different with the second call of the third step.
    """

    def __init__(self):
        self.transformer = Prompted()

    def __call__(self, start, otherwise="", steps=5, num_inference_steps=0):
        latents, prompt, nothing = start.clone(), start + 1, start - 1
        for step in range(steps):
            with_prompt = without = self.transformer(latents, timestep=step, extra=prompt)
            if step == 2 and otherwise == "other values":
                nothing = nothing * 3
            if step == 2 and otherwise == "written into":
                nothing *= 3
            if step == 2 and otherwise == "the latents":
                latents += 1
            if step != 2 or otherwise != "it is missing":
                without = self.transformer(latents, timestep=step, extra=nothing)
            latents = without + 1.5 * (with_prompt - without)
        return latents


class FailsTogether(Denoiser):
    def compute(self, latents, timestep):
        if len(latents) > 1:
            raise ArithmeticError("Only one row at a time.")
        return super().compute(latents, timestep)


class Small(Denoiser):
    """Has memory for two rows."""

    def compute(self, latents, timestep):
        if len(latents) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return super().compute(latents, timestep)


class Mixes(Denoiser):
    """Lets rows see each other."""

    def compute(self, latents, timestep):
        return super().compute(latents - latents.mean(0), timestep)


class Writes(Denoiser):
    """Changes the tensor that it was given, and the pipeline reads it again."""

    def compute(self, latents, timestep):
        latents += 1
        return latents


class Guided(Denoiser):
    """Halves its rows, as models with guidance inside do."""

    def compute(self, latents, timestep):
        without, with_prompt = super().compute(latents, timestep).chunk(2)
        return torch.cat([without, without + 3 * (with_prompt - without)])


class Refuses(Denoiser):
    """Cannot bear a negative number, wherever it is."""

    def compute(self, latents, timestep):
        if (latents < 0).any():
            raise ArithmeticError("A negative number.")
        return super().compute(latents, timestep)
