"""The shipped demo Stable Audio plays what prompts ask which its training never heard.

The thresholds lie well below the measured figures in deployments/demo/stable-audio/README.md, so
that another torch or processor does not fail them and a broken model does.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

from diffusers import StableAudioPipeline  # noqa: E402

from deployments.families.audio import AudioFamily  # noqa: E402
from deployments.families.registry import FAMILIES  # noqa: E402
from serve_app.catalog.catalog import load  # noqa: E402
from training import shelf  # noqa: E402
from training.audio import exam  # noqa: E402
from training.audio.checker import hear  # noqa: E402
from training.audio.world import SAMPLE_RATE, SAMPLES  # noqa: E402

FOLDER = Path(__file__).parents[3] / "deployments" / "demo" / "stable-audio"

pytestmark = [
    pytest.mark.engine,
    pytest.mark.long,
    # torch, transformers and diffusers deprecate names of their own while they load.
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning"),
]


@pytest.fixture(scope="module")
def pipeline() -> StableAudioPipeline:
    return shelf.take(FOLDER)


def test_it_weighs_less_than_ten_megabytes() -> None:
    assert shelf.size_bytes(FOLDER) < 10_000_000


def test_it_is_a_plain_stable_audio_pipeline(pipeline: StableAudioPipeline) -> None:
    assert type(pipeline) is StableAudioPipeline
    assert pipeline.vae.config.sampling_rate == SAMPLE_RATE


@pytest.mark.parametrize("count", [4, 20])
def test_audio_files_are_as_high_and_as_loud_as_prompts_say_and_most_do_what_they_say(
    pipeline: StableAudioPipeline, count: int
) -> None:
    answers = exam.sit(pipeline, exam.set_questions(count, seed=31), steps=16, guidance=3.0)
    parts = exam.figures(answers)
    assert answers[0].wave.shape == (SAMPLES,)
    assert parts["pitch"] >= 0.85
    assert parts["loudness"] >= 0.85
    assert parts["manner"] >= 0.85


def test_each_does_what_it_is_called(pipeline: StableAudioPipeline) -> None:
    prompts = {
        "a high tone": "tone",
        "a rising sweep": "rising",
        "a falling sweep": "falling",
        "a siren": "siren",
        "two beeps": "two beeps",
        "three low beeps": "three beeps",
        "four beeps": "four beeps",
    }
    batch = [prompt for prompt in prompts for _ in range(3)]
    waves = exam.play(pipeline, batch, steps=16, guidance=3.0, seeds=range(len(batch)))
    heard = [hear(wave, SAMPLE_RATE).manner for wave in waves]
    for number, manner in enumerate(prompts.values()):
        assert heard[3 * number : 3 * number + 3].count(manner) >= 2, manner


def test_a_shorter_audio_is_cut_off(pipeline: StableAudioPipeline) -> None:
    wave = pipeline("a low tone", audio_end_in_s=0.5, num_inference_steps=2, output_type="np")
    assert wave.audios.shape == (1, 1, SAMPLE_RATE // 2)


def test_a_request_that_names_nothing_else_is_played_as_it_was_trained(
    pipeline: StableAudioPipeline,
) -> None:
    catalog = load(None, demo=True, demo_dir=FOLDER.parent, families=FAMILIES)
    entry = catalog.get("fal-ai/stable-audio")
    checked, _ = entry.schema.validate({"prompt": "a high tone"})
    call = AudioFamily().prepare(entry.endpoint, checked, pipeline, seed=1)
    (wave,) = (call.view or pipeline)(**call.arguments).audios
    assert wave.shape[-1] == 5 * SAMPLE_RATE
    assert hear(wave[0].float().numpy(), SAMPLE_RATE).pitch == "high"


def test_the_same_seed_plays_the_same_audio_and_another_seed_another(
    pipeline: StableAudioPipeline,
) -> None:
    first, again, other = (
        exam.play(pipeline, ["a low tone"], steps=6, seeds=[seed]) for seed in (1, 1, 2)
    )
    assert np.array_equal(first, again)
    assert not np.allclose(first, other, atol=0.01)
