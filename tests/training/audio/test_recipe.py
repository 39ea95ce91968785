"""The parts of the demo Stable Audio fit together; its recipe goes from nothing to a pipeline."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

from training import shelf  # noqa: E402
from training.audio import exam, stable_audio, vae  # noqa: E402
from training.audio.recipe import AudioRecipe, AudioSteps  # noqa: E402
from training.audio.world import SAMPLES, SECONDS, render, sample_audio  # noqa: E402

pytestmark = [
    pytest.mark.engine,
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning"),
]


@pytest.fixture(scope="module", autouse=True)
def _seeded():
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def stack():
    return stable_audio.AudioStack().eval()


@pytest.mark.long
def test_the_scale_is_folded_into_the_autoencoder():
    autoencoder = vae.build_vae().eval()
    audios = [sample_audio(np.random.default_rng(seed)) for seed in range(2)]
    latents = vae.encode(autoencoder, audios)
    with torch.no_grad():
        plain = autoencoder.decode(latents).sample
        normal = vae.normalise_latents(autoencoder, latents)
        scaled = autoencoder.decode(normal).sample
    assert torch.allclose(normal.std(dim=(0, 2)), torch.ones(vae.LATENT_CHANNELS), atol=1e-3)
    assert torch.allclose(vae.encode(autoencoder, audios), normal, atol=1e-4)
    # Beyond the ends stands another value than before: only there may it differ.
    inside = slice(16 * vae.HOP, -16 * vae.HOP)
    assert torch.allclose(scaled[..., inside], plain[..., inside], atol=1e-4)


def test_the_posterior_is_as_wide_as_the_noise_of_the_training():
    wave = torch.from_numpy(render(sample_audio(np.random.default_rng(1))))[None, None]
    deviation = vae.build_vae().encode(wave).latent_dist.std
    assert torch.allclose(deviation, torch.full_like(deviation, vae.LATENT_NOISE), atol=1e-3)


def test_the_training_hears_the_prompt_as_the_pipeline_does(stack):
    pipeline = stable_audio.build_pipeline(vae.build_vae(), stack)
    options = {"padding": "max_length", "return_tensors": "pt"}
    ids = pipeline.tokenizer(["three high beeps"], **options).input_ids
    with torch.no_grad():
        text, time = stack.condition(ids)
        words = pipeline.encode_prompt("three high beeps", "cpu", False)
        start, end = pipeline.encode_duration(0.0, SECONDS, "cpu", False, 1)
    assert torch.allclose(text, torch.cat([words, start, end], dim=1), atol=1e-5)
    assert torch.allclose(time, torch.cat([start, end], dim=2), atol=1e-5)


def test_the_velocity_is_what_the_solver_takes_it_for():
    solver = stable_audio.build_solver()
    solver.set_timesteps(10)
    clean, noise = torch.randn(2, 1, 16, 8)
    for step, time in enumerate(solver.timesteps):
        sigma = solver.sigmas[step]
        assert torch.allclose(time, 0.25 * sigma.log(), atol=1e-5)
        sample = clean + sigma * noise
        seen = solver.scale_model_input(sample, time)
        scale = (1.0 + sigma.square()).sqrt()
        assert torch.allclose(seen, sample / scale, atol=1e-4)
        velocity = (noise - sigma * clean) / scale
        denoised = solver.precondition_outputs(sample, velocity, sigma)
        assert torch.allclose(denoised, clean, atol=1e-2)
        solver.step(velocity, time, sample)


@pytest.mark.long
def test_the_recipe_goes_from_nothing_to_a_pipeline_and_resumes(tmp_path):
    recipe = AudioRecipe(tmp_path, AudioSteps(vae=2, reading=2, audio=2), audios=3)
    pipeline = recipe.cook()
    # Done stages are not done again, nor on: what comes after them is made of them.
    again = replace(recipe, steps=AudioSteps(vae=4, reading=4, audio=4)).cook()
    for part in ("vae", "transformer"):
        weights = getattr(pipeline, part).state_dict()
        for name, value in getattr(again, part).state_dict().items():
            assert torch.equal(value, weights[name])
    shelf.put(pipeline, tmp_path / "out")
    taken = shelf.take(tmp_path / "out")
    waves = exam.play(taken, ["a low tone"], steps=2, guidance=3.0, seeds=[1])
    assert waves.shape == (1, SAMPLES)


def test_an_untrained_transformer_already_distinguishes_times(stack):
    """Attention knows distances only; without the look at the first token, noise at the beginning
    and the same noise in the middle are met alike."""
    seen = {}
    block = stack.transformer.transformer_blocks[0]
    hook = block.norm2.register_forward_hook(lambda _, inputs, __: seen.update(x=inputs[0]))
    same = torch.randn(1, vae.LATENT_CHANNELS, 1).expand(-1, -1, stable_audio.LENGTH)
    with torch.no_grad():
        stack(same, torch.tensor([5.0]), *stack.condition(torch.ones(1, 24).long()))
    hook.remove()
    early, middle, late = (
        seen["x"][0, 1 + place] for place in (0, stable_audio.LENGTH // 2, stable_audio.LENGTH - 1)
    )
    for first, other in ((early, middle), (middle, late), (early, late)):
        assert (first - other).norm() > 0.1 * first.norm()
