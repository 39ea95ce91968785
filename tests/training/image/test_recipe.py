"""The stages that lead from a shipped image model to the next fit together."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

from training import shelf  # noqa: E402
from training.image import exam, reading  # noqa: E402
from training.image.examples import FORMATS, GrowingExamples, Growth  # noqa: E402
from training.image.recipe import ImageRecipe, Steps  # noqa: E402
from training.image.sdxl_recipe import SdxlImageRecipe, SdxlSteps  # noqa: E402
from training.image.text import (  # noqa: E402
    T5_TOKENS,
    T5_WIDTH,
    build_t5_tokenizer,
    grown_t5,
    known_words,
)
from training.text import token_ids  # noqa: E402

SHIPPED = Path(__file__).parents[3] / "deployments" / "demo"
FEW = Growth(examples=4, first=len(FORMATS), most=len(FORMATS) + 1, every_steps=2)

pytestmark = [
    pytest.mark.engine,
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning"),
    # Autocast gives the transformer's norms, whose weights are float32, what is bf16.
    pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight:UserWarning"),
]


@pytest.fixture(scope="module")
def shipped_pipeline():
    return shelf.take(SHIPPED / "flux")


def test_every_word_is_one_token_and_others_are_unknown() -> None:
    tokenizer = build_t5_tokenizer()
    unknown = tokenizer.convert_tokens_to_ids("<unk>")
    assert all(len(tokenizer(word).input_ids) == 2 for word in known_words())
    assert unknown not in token_ids(tokenizer, [" ".join(known_words()[:20])], T5_TOKENS)[0]
    assert unknown in token_ids(tokenizer, ["a red cat"], T5_TOKENS)[0]


def test_a_grown_encoder_says_what_the_shipped_one_said(shipped_pipeline) -> None:
    prompt = ["a small red circle above a blue square"]
    old, new = shipped_pipeline.tokenizer_2, build_t5_tokenizer()
    grown = grown_t5(shipped_pipeline.text_encoder_2, old).eval()
    with torch.no_grad():
        before = shipped_pipeline.text_encoder_2(token_ids(old, prompt, 24).long())[0]
        says = grown(token_ids(new, prompt, 24).long())[0]
    assert torch.allclose(before[:, :8], says[:, :8], atol=1e-4)


def test_all_that_is_asked_of_a_prompt_trains_the_encoder(shipped_pipeline) -> None:
    reader = reading.PlaceReader(
        grown_t5(shipped_pipeline.text_encoder_2, shipped_pipeline.tokenizer_2), T5_WIDTH
    )
    rng = np.random.default_rng(1)
    batch = reading.sample_reading(rng, 8, build_t5_tokenizer(), T5_TOKENS)
    reading.loss_on(reader, *batch).backward()
    assert all(
        parameter.grad is not None and parameter.grad.abs().sum() > 0
        for parameter in reader.of_slot["size"].parameters()
    )
    assert set(reading.marks(reader, *batch)) == {
        "colour", "shape", "size", "background", "layout", "count",
    }  # fmt: skip


def test_examples_come_with_the_steps_and_are_made_once(shipped_pipeline, tmp_path) -> None:
    examples = GrowingExamples(shipped_pipeline.vae, tmp_path, FEW)
    examples.batch(np.random.default_rng(1), 2, 0)
    mtimes = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert len(mtimes) == len(FORMATS)
    again = GrowingExamples(shipped_pipeline.vae, tmp_path, FEW)
    batch = again.batch(np.random.default_rng(1), 2, 100)
    assert batch.latents.shape == (2, batch.rows * batch.columns, 48)
    now = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert len(now) == len(FORMATS) + 1
    assert mtimes.items() <= now.items()


@pytest.mark.long
def test_the_recipes_go_from_the_shipped_weights_to_pipelines_and_do_not_start_again(
    tmp_path,
) -> None:
    recipe = ImageRecipe(
        tmp_path, SHIPPED / "flux", Steps(vae=1, reading=2, flux=2, deep=2, polish=1, fit=1), FEW
    )
    shelf.put(recipe.cook(), tmp_path / "flux")
    assert shelf.size_bytes(tmp_path / "flux") < 12_000_000
    pipeline = shelf.take(tmp_path / "flux")
    question, *_ = exam.set_questions(1, seed=1, width=256, height=128)
    (answer,) = exam.sit(pipeline, [question], steps=2)
    assert answer.image.size == (256, 128)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("examples-*")}
    weights = recipe.cook().transformer.state_dict()
    assert all(
        torch.equal(value, weights[name])
        for name, value in recipe.so_far().transformer.state_dict().items()
    )
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("examples-*")} == before
    # SDXL goes on from the same autoencoder and examples.
    steps = SdxlSteps(reading=2, sdxl=2)
    other = SdxlImageRecipe(tmp_path, SHIPPED / "sdxl", tmp_path / "flux", steps, FEW)
    shelf.put(other.cook(), tmp_path / "sdxl")
    assert shelf.size_bytes(tmp_path / "sdxl") < 12_000_000
    (answer,) = exam.sit(shelf.take(tmp_path / "sdxl"), [question], steps=2, guidance=2.0)
    assert answer.image.size == (256, 128)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("examples-*")} == before
    weights = other.cook().unet.state_dict()
    so_far = other.so_far().unet.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in so_far.items())
