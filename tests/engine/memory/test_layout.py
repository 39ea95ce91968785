"""How loaded weights lie in memory."""

import pytest
import torch
from diffusers.models.attention_dispatch import _AttentionBackendRegistry

from deployments.engine.accelerator.cpu import Cpu
from deployments.engine.accelerator.cuda import Cuda
from deployments.engine.default_dtype import TURNS
from deployments.engine.engine import Engine
from deployments.engine.loading.loads import LoadPlan
from deployments.engine.loading.residency import Residency
from deployments.engine.memory.layout import lay_out
from serve_app.domain.endpoint import Recipe
from serve_app.domain.errors import Misconfigured
from tests.engine.calls import run_without_engine
from tests.engine.tiny import tiny_flux
from tests.fakes.accelerator import FakeAccelerator

pytestmark = pytest.mark.engine


def channels_last(module: torch.nn.Conv2d) -> bool:
    return module.weight.is_contiguous(memory_format=torch.channels_last)


def test_an_autoencoder_of_images_has_its_channels_last_on_a_cpu_and_draws_the_same():
    pipeline = tiny_flux()
    before = run_without_engine(pipeline)
    lay_out(pipeline, Cpu())
    convolution = pipeline.vae.decoder.conv_in
    assert channels_last(convolution)
    assert not convolution.weight.is_contiguous()
    torch.testing.assert_close(run_without_engine(pipeline), before, atol=1e-5, rtol=0)


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


def backends(pipeline):
    processors = pipeline.transformer.attn_processors.values()
    return {getattr(processor._attention_backend, "value", None) for processor in processors}


def test_attention_is_torchs_own_unless_a_recipe_names_another():
    pipeline = tiny_flux()
    lay_out(pipeline, FakeAccelerator(), Recipe(24, "float32"))
    assert backends(pipeline) == {None}
    before = run_without_engine(pipeline)
    lay_out(pipeline, FakeAccelerator(), Recipe(24, "float32", attention="_native_math"))
    assert backends(pipeline) == {"_native_math"}
    torch.testing.assert_close(run_without_engine(pipeline), before, atol=1e-5, rtol=0)


def test_attention_of_one_model_is_not_that_of_the_next_one():
    before = _AttentionBackendRegistry._active_backend
    lay_out(tiny_flux(), Cpu(), Recipe(24, "float32", attention="_native_math"))
    assert _AttentionBackendRegistry._active_backend is before


def test_nothing_computes_while_it_is_also_the_default_of_the_process(monkeypatch):
    pipeline, apart = tiny_flux(), []
    set_backend = pipeline.transformer.set_attention_backend

    def noted(name):
        apart.append(TURNS.change_waits)
        set_backend(name)

    monkeypatch.setattr(pipeline.transformer, "set_attention_backend", noted)
    lay_out(pipeline, Cpu(), Recipe(24, "float32", attention="_native_math"))
    assert apart == [True]
    assert not TURNS.change_waits


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("fastest", "is unknown"),
        ("flash_hub", "downloads code"),
        ("sage", "cannot be used: .*sageattention"),
    ],
)
def test_attention_that_cannot_be_used_is_refused_with_the_reason(name, reason):
    with pytest.raises(Misconfigured, match=f"`{name}`.*{reason}"):
        lay_out(tiny_flux(), Cpu(), Recipe(24, "float32", attention=name))
