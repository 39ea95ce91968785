"""The untrained parts of the SDXL demo model fit together; what is folded in changes nothing."""

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

from training import shelf  # noqa: E402
from training.image import exam, sdxl  # noqa: E402
from training.image.clip_pair import POOLED_WIDTH, STATE_WIDTH  # noqa: E402
from training.image.examples import FORMATS, make_examples  # noqa: E402
from training.image.reading import PooledPlaceReader, loss_on, sample_reading  # noqa: E402
from training.image.text import CLIP_TOKENS, build_clip_tokenizer  # noqa: E402

DEMO = Path(__file__).parents[3] / "deployments" / "demo"

pytestmark = [
    pytest.mark.engine,
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning"),
]


@pytest.fixture(scope="module", autouse=True)
def _seeded():
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def autoencoder():
    return shelf.take(DEMO / "flux").vae.eval()


@pytest.fixture(scope="module")
def examples(autoencoder):
    return make_examples(autoencoder, np.random.default_rng(1), 16, FORMATS[-1])


@pytest.fixture(scope="module")
def stack():
    return sdxl.SdxlStack().eval()


def test_the_scale_is_folded_into_the_autoencoder_exactly(autoencoder, examples):
    scale = sdxl.scale_of(examples.latents)
    scaled = sdxl.with_scale(autoencoder, scale)
    with torch.no_grad():
        latents = examples.latents[:2]
        normal = (latents - scale.mean) / scale.deviation
        plain = autoencoder.decode(latents).sample
        assert torch.allclose(scaled.decode(normal).sample, plain, atol=1e-4)
        pixels = torch.rand(1, 3, 96, 128) * 2 - 1
        before = autoencoder.encode(pixels).latent_dist
        after = scaled.encode(pixels).latent_dist
        assert torch.allclose(after.mean, (before.mean - scale.mean) / scale.deviation, atol=1e-4)
        assert torch.allclose(after.std, before.std / scale.deviation, rtol=1e-3)


def test_the_training_sees_the_text_as_the_pipeline_does(autoencoder, examples, stack):
    pipeline = sdxl.build_pipeline(
        sdxl.with_scale(autoencoder, sdxl.scale_of(examples.latents)), stack
    )
    ids = build_clip_tokenizer()(
        ["a small red circle"], padding="max_length", max_length=CLIP_TOKENS, return_tensors="pt"
    ).input_ids
    with torch.no_grad():
        states, pooled = stack.texts(ids)
        embeds, _, pooled_embeds, _ = pipeline.encode_prompt(
            "a small red circle", device="cpu", do_classifier_free_guidance=True
        )
    assert torch.equal(embeds, states)
    assert torch.equal(pooled_embeds, pooled)


def test_noise_is_mixed_in_as_the_solver_undoes_it():
    solver, noise = sdxl.build_solver(), sdxl.Noise()
    solver.set_timesteps(25)
    assert int(solver.timesteps[0]) == noise.times - 1
    image, grains = torch.full((1, 1, 1, 1), 0.7), torch.full((1, 1, 1, 1), -1.3)
    for step, time in enumerate(solver.timesteps):
        alpha, sigma = noise.image[int(time)], noise.noise[int(time)]
        sample = image + grains * solver.sigmas[step]
        seen = solver.scale_model_input(sample, time)
        if step:  # the first one's sigma is only nearly endless
            assert torch.allclose(seen, alpha * image + sigma * grains, atol=1e-3)
        velocity = alpha * grains - sigma * image
        denoised = solver.step(velocity, time, sample).pred_original_sample
        assert torch.allclose(denoised, image, atol=0.01 if step else 0.5)


@pytest.mark.long
def test_a_few_steps_lower_the_loss(examples):
    torch.manual_seed(0)
    stack, noise, scale = sdxl.SdxlStack(), sdxl.Noise(), sdxl.scale_of(examples.latents)
    optimiser = torch.optim.AdamW(stack.parameters(), lr=2e-3)
    losses = []
    for _ in range(10):
        torch.manual_seed(1)
        rng = np.random.default_rng(1)  # the same batch again
        loss = sdxl.loss_on(stack, sdxl.pick_batch(examples, rng, 4, scale), noise, rng)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.95 * losses[0]


def test_both_outputs_of_the_encoders_are_asked(stack):
    reader = PooledPlaceReader(stack.texts, STATE_WIDTH, POOLED_WIDTH)
    batch = sample_reading(np.random.default_rng(1), 4, build_clip_tokenizer(), CLIP_TOKENS)
    loss_on(reader, *batch).backward()
    assert reader.of_pooled["background"].weight.grad.abs().sum() > 0
    assert stack.texts.text_encoder.get_input_embeddings().weight.grad.abs().sum() > 0


def test_it_is_put_on_the_shelf_small_and_draws_when_taken_down(
    autoencoder, examples, stack, tmp_path
):
    scaled = sdxl.with_scale(autoencoder, sdxl.scale_of(examples.latents))
    shelf.put(sdxl.build_pipeline(scaled, stack), tmp_path / "sdxl")
    assert shelf.size_bytes(tmp_path / "sdxl") < 10_000_000
    pipeline = shelf.take(tmp_path / "sdxl")
    questions = exam.set_questions(2, seed=1, height=128)
    answers = exam.sit(pipeline, questions, steps=2, guidance=7.5)
    assert [answer.image.size for answer in answers] == [(256, 128)] * 2
    stack.float()
