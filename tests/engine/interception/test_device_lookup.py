"""Where components compute and in what type: as diffusers reports it, asked by the way."""

import pytest
import torch
from accelerate.hooks import AlignDevicesHook, add_hook_to_module
from diffusers import FluxPipeline
from diffusers.hooks import apply_group_offloading
from diffusers.utils.torch_utils import get_module_execution_device

from deployments.engine.engine import Engine
from tests.engine.tiny import tiny_flux

pytestmark = pytest.mark.engine

PARTS = ("text_encoder", "text_encoder_2", "transformer", "vae")


class Reports(FluxPipeline):
    """Makes nothing, and gives what its components say where it is called."""

    def __call__(self, prompt):
        return whereabouts(self)


def whereabouts(pipeline):
    parts = {name: getattr(pipeline, name) for name in PARTS}
    return {
        "computes on": pipeline._execution_device,
        "is on": pipeline.device,
        **{
            name: (part.device, part.dtype, get_module_execution_device(part))
            for name, part in parts.items()
        },
    }


def is_as_it_was(pipeline):
    assert pipeline.transformer.dtype is torch.float32


def casts(pipeline):
    pipeline.transformer.enable_layerwise_casting(torch.float8_e4m3fn, torch.float64)


def offloads_groups(pipeline):
    for name in ("transformer", "vae"):
        groups = {"offload_type": "block_level", "num_blocks_per_group": 1}
        apply_group_offloading(getattr(pipeline, name), torch.device("cpu"), **groups)


def runs_elsewhere(pipeline):
    for name in PARTS:
        add_hook_to_module(getattr(pipeline, name), AlignDevicesHook(execution_device="meta"))


def is_half(pipeline):
    pipeline.to(torch.bfloat16)


def keeps_some_parameters(pipeline):
    """As float32, the first of them too, so that what the model computes in is another's."""
    model = pipeline.transformer.to(torch.bfloat16)
    model._keep_in_fp32_modules = ["context_embedder", "time_text_embed"]
    model.time_text_embed.float()
    model.context_embedder.float()


@pytest.mark.parametrize(
    "change",
    [
        is_as_it_was,
        casts,
        offloads_groups,
        runs_elsewhere,
        is_half,
        keeps_some_parameters,
    ],
)
def test_inside_of_a_generation_components_say_what_they_say_outside(change):
    pipeline = tiny_flux()
    pipeline.__class__ = Reports
    change(pipeline)
    with Engine(pipeline) as engine:
        assert engine.submit(prompt="a red circle").result(60) == whereabouts(pipeline)


def test_hooks_that_come_later_are_seen_by_the_next_generation():
    pipeline = tiny_flux()
    pipeline.__class__ = Reports
    with Engine(pipeline) as engine:
        before = engine.submit(prompt="a red circle").result(60)
        casts(pipeline)
        after = engine.submit(prompt="a red circle").result(60)
    assert before["transformer"] != after["transformer"]
    assert after == whereabouts(pipeline)


def test_modules_without_hooks_are_not_asked_for_them_when_the_pipeline_looks_where_it_computes():
    """A module says slowly that it lacks something."""
    lookups = []

    class Watched(torch.nn.Linear):
        def __getattr__(self, name):
            lookups.append(name)
            return super().__getattr__(name)

    class Looks(FluxPipeline):
        def __call__(self, prompt):
            lookups.clear()
            _ = self._execution_device, self.transformer.device, self.transformer.dtype
            return list(lookups)

    pipeline = tiny_flux()
    pipeline.__class__ = Looks
    pipeline.transformer.proj_out = Watched(4, 4)
    with Engine(pipeline) as engine:
        assert engine.submit(prompt="a red circle").result(60) == []
    assert pipeline._execution_device == torch.device("cpu")
    assert "_diffusers_hook" in lookups


def test_the_copy_of_a_generation_has_its_pipeline_s_name():
    class Named(FluxPipeline):
        def __call__(self, prompt):
            return type(self).__qualname__, type(self).__module__, isinstance(self, Named)

    pipeline = tiny_flux()
    pipeline.__class__ = Named
    with Engine(pipeline) as engine:
        output = engine.submit(prompt="a red circle").result(60)
    assert output == (Named.__qualname__, Named.__module__, True)
