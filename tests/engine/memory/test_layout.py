"""How loaded weights lie in memory."""

import pytest
import torch

from deployments.engine.accelerator.cpu import Cpu
from deployments.engine.accelerator.cuda import Cuda
from deployments.engine.engine import Engine
from deployments.engine.loading.loads import LoadPlan
from deployments.engine.loading.residency import Residency
from deployments.engine.memory.placement import lay_out
from tests.engine.calls import alone
from tests.engine.tiny import tiny_flux

pytestmark = pytest.mark.engine


def channels_last(module: torch.nn.Conv2d) -> bool:
    return module.weight.is_contiguous(memory_format=torch.channels_last)


def test_an_autoencoder_of_images_has_its_channels_last_on_a_cpu_and_draws_the_same():
    pipeline = tiny_flux()
    before = alone(pipeline)
    lay_out(pipeline, Cpu())
    convolution = pipeline.vae.decoder.conv_in
    assert channels_last(convolution)
    assert not convolution.weight.is_contiguous()
    torch.testing.assert_close(alone(pipeline), before, atol=1e-5, rtol=0)


def test_on_a_gpu_weights_lie_as_they_were_loaded():
    pipeline = tiny_flux()
    lay_out(pipeline, Cuda("cuda"))
    assert pipeline.vae.decoder.conv_in.weight.is_contiguous()


def test_what_a_residency_loads_is_laid_out_for_its_engine():
    with Engine() as engine:
        residency = Residency(engine)
        loaded = residency.acquire("it", LoadPlan(lambda *_: tiny_flux())).future.result(60)
        residency.close()
    assert channels_last(loaded.vae.decoder.conv_in)
