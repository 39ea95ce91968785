"""What is declared about denoisers holds for the real ones."""

import ast
import inspect
from types import SimpleNamespace

import diffusers
import pytest
import torch
from diffusers import DDPMScheduler, QwenImageTransformer2DModel, ZImageTransformer2DModel
from diffusers.models.autoencoders import (
    autoencoder_kl_cogvideox,
    autoencoder_kl_hunyuan_video,
    autoencoder_kl_ltx,
    autoencoder_kl_wan,
)
from diffusers.models.controlnets import multicontrolnet_union

from deployments.engine.interception import model_traits
from deployments.engine.interception.model_traits import (
    BUILT_IN,
    KNOWN,
    NOTHING,
    ModelTrait,
    ModelTraits,
)
from deployments.engine.interception.pipeline import steps_ahead
from tests.engine.gate import Gate, merging_engine
from tests.engine.loops import Denoiser, Loop

pytestmark = pytest.mark.engine


class Calls:
    """A pipeline that calls its transformer twice with what it is given."""

    def __init__(self, transformer):
        self.transformer = transformer

    def __call__(self, latents, **arguments):
        for step in (0.9, 0.4):
            timestep = torch.full((len(latents),), step)
            output = self.transformer(latents, timestep=timestep, return_dict=False, **arguments)
            latents = latents - 0.5 * output[0]
        return latents


@pytest.fixture(scope="module")
def qwen():
    torch.manual_seed(0)
    return QwenImageTransformer2DModel(
        patch_size=2,
        in_channels=16,
        out_channels=4,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=3,
        joint_attention_dim=16,
        axes_dims_rope=(8, 4, 4),
    ).eval()


def qwen_call(tokens, mask=None):
    return {
        "latents": torch.randn(1, 16, 16),
        "encoder_hidden_states": torch.randn(1, tokens, 16),
        "encoder_hidden_states_mask": mask,
        "img_shapes": [[(1, 4, 4)]],
    }


def assert_merged(pipeline, calls, within):
    """All two steps of all three share their forwards, and each gives what it gives alone."""
    with merging_engine(pipeline, verify_merges=True, threads=1) as engine:
        gate = Gate(engine)
        running = [engine.submit(**call) for call in calls]
        gate.open()
        results = [generation.result(60) for generation in running]
        assert engine.counts()["merged_calls"] == 6
    with torch.no_grad():
        for arguments, result in zip(calls, results, strict=True):
            assert (pipeline(**arguments) - result).abs().max() < within


def test_prompts_of_other_lengths_merge_in_qwen_image(qwen):
    torch.manual_seed(1)
    partly = torch.ones(1, 7, dtype=torch.bool)
    partly[:, 5:] = False
    calls = [qwen_call(3), qwen_call(11), qwen_call(7, partly)]
    assert_merged(Calls(qwen), calls, within=1e-5)


@pytest.fixture(scope="module")
def z_image():
    torch.manual_seed(0)
    model = ZImageTransformer2DModel(
        all_patch_size=(2,),
        all_f_patch_size=(1,),
        in_channels=4,
        dim=32,
        n_layers=2,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=16,
        axes_dims=[8, 4, 4],
        axes_lens=[256, 32, 32],
    )
    for parameter in model.parameters():  # some begin as they come out of the allocator
        torch.nn.init.normal_(parameter, std=0.1)
    return model.eval()


class ListCalls:
    """As ``Calls``, around a transformer that takes and gives lists."""

    def __init__(self, transformer):
        self.transformer = transformer

    def __call__(self, latents, prompts):
        for step in (0.9, 0.4):
            timestep = torch.full((len(latents),), step)
            output = self.transformer(list(latents), timestep, prompts, return_dict=False)
            latents = latents - 0.5 * torch.stack(output[0])
        return latents


def test_prompts_of_other_lengths_merge_in_z_image_with_guidance(z_image):
    torch.manual_seed(1)
    calls = [
        {
            "latents": torch.randn(2, 4, 1, 8, 8),
            "prompts": [torch.randn(tokens, 16), torch.randn(5, 16)],
        }
        for tokens in (3, 40, 70)
    ]
    assert_merged(ListCalls(z_image), calls, within=1e-4)


def test_each_declared_class_is_one_of_diffusers_and_declared_by_one_family():
    # The others have what is not exported.
    homes = (
        diffusers,
        multicontrolnet_union,
        autoencoder_kl_wan,
        autoencoder_kl_cogvideox,
        autoencoder_kl_hunyuan_video,
        autoencoder_kl_ltx,
    )
    source = ast.parse(inspect.getsource(model_traits))
    tables = [node for node in ast.walk(source) if isinstance(node, ast.Dict)]
    names = [key.value for key in max(tables, key=lambda table: len(table.keys)).keys]
    assert set(names) == set(BUILT_IN)
    assert len(names) > 20
    assert all(any(hasattr(home, name) for home in homes) for name in names)
    assert len(set(names)) == len(names)
    assert all(KNOWN.of(type(name, (), {})) != NOTHING for name in names)  # none is forgotten


class Placed(Denoiser):
    """Its positions are those of the first row, whatever rows there are."""

    def forward(self, hidden_states, timestep, places=None):
        return super().forward(hidden_states, timestep) + places[:1]


class OfAHouse(Placed):
    """Made of the declared one."""


@pytest.mark.parametrize("kind", [Placed, OfAHouse])
def test_what_a_house_declares_about_its_models_is_heeded(kind):
    """Rows that go together would get each other's positions."""
    combined = KNOWN.with_families([{"Placed": ModelTrait(shared=frozenset({"places"}))}])
    pipeline = Loop(kind())
    calls = [
        {"start": torch.ones(1, 2), "places": torch.full((1, 2), place)} for place in (1.0, 2.0)
    ]
    with merging_engine(pipeline, threads=1, traits=combined) as engine:
        gate = Gate(engine)
        running = [engine.submit(**call) for call in calls]
        gate.open()
        results = [generation.result(60) for generation in running]
        assert engine.counts()["merged_calls"] == 0
    assert all(
        torch.equal(result, pipeline(**its)) for result, its in zip(results, calls, strict=True)
    )
    assert KNOWN.of(kind) == NOTHING  # other engines do not know


def test_the_later_family_holds_and_what_is_made_of_a_class_may_do_otherwise():
    class Videos:
        pass

    class Others(Videos):
        pass

    first, second = ModelTrait(chunked=True), ModelTrait(merge_refusal="it is so")
    combined = ModelTraits({"Videos": first}).with_families([{"Videos": second}])
    assert combined.of(Videos) == combined.of(Others) == combined.exact(Videos) == second
    assert combined.exact(Others) == NOTHING


def test_the_steps_of_a_scheduler_that_is_not_set_yet_are_unknown() -> None:
    """A prior runs before the scheduler of the decoder is set."""
    pipeline = SimpleNamespace(scheduler=DDPMScheduler())
    assert steps_ahead(pipeline) == 0
    pipeline.scheduler.set_timesteps(4)
    assert steps_ahead(pipeline) == 4
