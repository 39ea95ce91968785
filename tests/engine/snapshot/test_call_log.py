"""The forms of outputs: what a resumed generation gets in place of them."""

import json

import pytest
import torch
from diffusers.models.controlnets.controlnet import ControlNetOutput
from diffusers.models.transformers.transformer_flux2 import Flux2KVCache
from diffusers.models.unets.unet_2d_condition import UNet2DConditionOutput

from deployments.engine.interception.proxy import ComponentCall
from deployments.engine.snapshot.call_log import CallLog, form_of, placeholder

pytestmark = pytest.mark.engine


def again(output):
    return placeholder(json.loads(json.dumps(form_of(output))), "cpu")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.complex64, torch.bool])
def test_a_tensor_becomes_zeros_of_its_shape_and_type(dtype):
    rebuilt = again(torch.ones(2, 3, dtype=dtype))
    assert (rebuilt.shape, rebuilt.dtype, rebuilt.any().item()) == ((2, 3), dtype, False)


def test_containers_and_plain_values_are_as_they_were():
    rebuilt = again(([torch.ones(1)], {0: torch.ones(2), "b": "text"}, None, 3))
    assert isinstance(rebuilt, tuple)
    assert (rebuilt[0][0].shape, rebuilt[1][0].shape) == ((1,), (2,))
    assert (rebuilt[1]["b"], rebuilt[2], rebuilt[3]) == ("text", None, 3)


def test_outputs_of_models_are_of_their_classes():
    unet = again(UNet2DConditionOutput(sample=torch.ones(1, 4)))
    assert isinstance(unet, UNet2DConditionOutput)
    assert unet.sample.shape == unet[0].shape == (1, 4)
    control = again(ControlNetOutput([torch.ones(1)], torch.ones(2)))
    assert control.down_block_res_samples[0].shape == (1,)


def test_what_models_make_of_their_own_is_made_with_what_it_holds():
    cache = Flux2KVCache(2, 1)
    cache.get_single(0).store(torch.ones(1, 2), torch.ones(1, 3))
    rebuilt = again((torch.ones(1), cache))[1]
    assert isinstance(rebuilt, Flux2KVCache)
    assert [part.shape for part in rebuilt.get_single(0).get()] == [(1, 2), (1, 3)]
    assert rebuilt.get_double(1).k_ref is None


def test_what_is_not_known_is_named():
    assert form_of(object()) == {"opaque": "builtins.object"}


@pytest.mark.parametrize("place", [["os", "system"], ["diffusers.pipelines", "FluxPipeline"]])
def test_nothing_but_what_models_return_is_made_from_a_snapshot(place):
    with pytest.raises(TypeError, match="not an output"):
        placeholder({"of": place, "fields": {}}, "cpu")


def test_outputs_are_kept_as_they_were_up_to_the_bound():
    log, output = CallLog(keep_bytes=8), torch.ones(1)
    log.add(ComponentCall(None, (), {}, component="unet"), output)
    output.zero_()
    assert torch.equal(log.outputs[0], torch.ones(1))
    log.add(ComponentCall(None, (), {}, component="unet"), torch.ones(2))
    assert log.outputs is None
    assert len(log.calls) == 2
