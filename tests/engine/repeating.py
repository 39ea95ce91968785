"""A small pipeline whose denoiser repeats a block, as those that are compiled do."""

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin

from tests.engine.loops import Loop


class Block(torch.nn.Module):
    def __init__(self, width):
        super().__init__()
        self.inner = torch.nn.Linear(width, width)

    def forward(self, x):
        return x + torch.nn.functional.gelu(self.inner(x))


class Repeating(ModelMixin, ConfigMixin):
    _repeated_blocks = ("Block",)

    @register_to_config
    def __init__(self, width=8):
        super().__init__()
        self.blocks = torch.nn.ModuleList([Block(width), Block(width)])

    def forward(self, hidden_states, timestep):
        for block in self.blocks:
            hidden_states = block(hidden_states)
        return hidden_states * 0.5 + torch.as_tensor(timestep).reshape(-1, 1, 1) * 0.1


def small(width=8):
    torch.manual_seed(0)
    return Loop(Repeating(width).eval())


def start(rows=1, tokens=4, value=0.5, width=8):
    return {"start": torch.full((rows, tokens, width), value)}
