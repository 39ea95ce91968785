"""The parts of the demo Wan fit together, and its recipe goes from nothing to a pipeline."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

from training import shelf  # noqa: E402
from training.text import WIDTH  # noqa: E402
from training.video import exam, vae, wan  # noqa: E402
from training.video.larger_recipe import LargerVideoRecipe, Parts, VideoSteps  # noqa: E402
from training.video.recipe import VideoRecipe  # noqa: E402
from training.video.text import TOKENS  # noqa: E402
from training.video.world import sample_video  # noqa: E402

pytestmark = [
    pytest.mark.engine,
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning"),
    # Autocast gives the transformer's norms, whose weights are float32, what is bf16.
    pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight:UserWarning"),
]


@pytest.fixture(scope="module", autouse=True)
def _seeded():
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def autoencoder():
    return vae.build_vae().eval()


@pytest.fixture(scope="module")
def stack():
    return wan.WanStack().eval()


@pytest.mark.parametrize("length", [TOKENS, 226])
def test_the_training_sees_the_text_as_the_pipeline_does(autoencoder, stack, length):
    pipeline = wan.build_pipeline(autoencoder, stack)
    options = {"padding": "max_length", "max_length": TOKENS, "return_tensors": "pt"}
    ids = pipeline.tokenizer(["a red circle moving left"], **options).input_ids
    with torch.no_grad():
        embeds, _ = pipeline.encode_prompt(
            "a red circle moving left",
            do_classifier_free_guidance=False,
            max_sequence_length=length,
        )
        assert torch.allclose(embeds, stack.read(ids, length), atol=1e-5)


def test_an_image_is_the_first_latent_frame_of_its_video(autoencoder):
    pixels = vae.to_pixels([sample_video(np.random.default_rng(1))])
    with torch.no_grad():
        whole = autoencoder.encode(pixels).latent_dist.mean
        first = autoencoder.encode(pixels[:, :, :1]).latent_dist.mean
    assert torch.allclose(whole[:, :, :1], first, atol=1e-5)


class _Blank:
    """A stack that always answers that nothing moves."""

    def read(self, ids, length):
        return torch.zeros(len(ids), length, 1)

    def __call__(self, noisy, levels, text):
        assert (levels[:, 0] == 0).all()
        return torch.zeros_like(noisy)


def test_a_given_first_frame_is_clean_and_is_not_to_be_predicted():
    latents = torch.zeros(4, 16, 5, 8, 8)
    latents[:, :, 0] = 1e3
    batch = wan.Batch(latents, torch.ones(4, TOKENS).long(), torch.ones(4, dtype=torch.bool))
    # What is left is noise, whose square is 1 in the mean.
    assert abs(float(wan.loss_on(_Blank(), batch, np.random.default_rng(1))) - 1.0) < 0.1


@pytest.mark.long
def test_the_recipe_goes_from_nothing_to_a_pipeline_and_resumes(tmp_path):
    recipe = VideoRecipe(tmp_path, minutes=2 / 60, reading_steps=2, usual_videos=4, free_videos=2)
    pipeline = recipe.cook()
    # Done stages are not done again, nor on: what comes after them is made of them.
    again = replace(recipe, minutes=2 * recipe.minutes).cook()
    for part in ("vae", "transformer"):
        weights = getattr(pipeline, part).state_dict()
        for name, value in getattr(again, part).state_dict().items():
            assert torch.equal(value, weights[name])
    shelf.put(pipeline, tmp_path / "out")
    taken = shelf.take(tmp_path / "out")
    videos = exam.make(taken, ["a red circle moving left"], steps=2, guidance=3.0, seeds=[1])
    assert videos.shape == (1, 17, 64, 64, 3)


def test_at_twice_the_size_a_video_is_the_same_but_sharper():
    video = sample_video(np.random.default_rng(2))
    small, large = (vae.to_pixels([video], scale) for scale in (1, 2))
    assert large.shape[-2:] == (128, 128)
    halved = torch.nn.functional.avg_pool3d(large, (1, 2, 2))
    assert (halved - small).abs().mean() < 0.01


def test_a_deeper_transformer_computes_what_it_did_before_it_is_trained():
    torch.manual_seed(3)
    shallow = wan.build_transformer()
    deep = wan.deepen(shallow, 7)
    assert len(deep.blocks) == 7
    latents, text = torch.randn(1, 16, 2, 4, 4), torch.randn(1, 8, WIDTH)
    times = torch.full((1, 8), 500.0)
    before, after = (
        network(latents, times, text, return_dict=False)[0] for network in (shallow, deep)
    )
    assert torch.equal(before, after)
    assert wan.deepen(deep, 5) is deep


def test_outlines_weigh_more_than_what_they_enclose_and_corners_most():
    weights = torch.zeros(1, 1, 1, 64, 64)
    weights[..., 16:48, 16:48] = 1.0
    weighed = vae.weigh_outlines(weights)[0, 0, 0]
    assert weighed[0, 0] == 0.0
    assert weighed[32, 32] == 1.0
    assert weighed[16, 16] > weighed[16, 32] > 1.5


@pytest.mark.long
def test_the_larger_recipe_goes_from_the_shipped_pipeline_to_one_of_twice_the_size(tmp_path):
    shipped = Path(__file__).parents[3] / "deployments" / "demo" / "wan"
    recipe = LargerVideoRecipe(
        tmp_path, shipped, VideoSteps(autoencoder=1, decoder=1, wan=2), Parts(count=2, videos=4)
    )
    pipeline = recipe.cook()
    questions = exam.set_questions(1, seed=1)
    (answer,) = exam.sit(pipeline, questions, steps=2, scale=2)
    assert answer.frames.shape == (17, 128, 128, 3)
    (image,) = exam.set_images(1, seed=1, scale=2)
    (answer,) = exam.sit(pipeline, [image], steps=2)
    assert answer.frames.shape == (17, 128, 128, 3)
    # Done stages are not done again.
    mtimes = {path: path.stat().st_mtime_ns for path in tmp_path.glob("video-examples-*")}
    so_far = recipe.so_far().transformer.state_dict()
    for name, value in recipe.cook().transformer.state_dict().items():
        assert torch.equal(value, so_far[name])
    assert {path: path.stat().st_mtime_ns for path in mtimes} == mtimes
