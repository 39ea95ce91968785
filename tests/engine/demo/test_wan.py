"""The shipped demo Wan makes videos that do what prompts ask which its training never saw.

The thresholds lie well below the measured figures in deployments/demo/wan/README.md, so that
another torch or processor does not fail them and a broken model does.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

from diffusers import WanImageToVideoPipeline, WanPipeline  # noqa: E402
from PIL import Image  # noqa: E402

from deployments.families.registry import FAMILIES  # noqa: E402
from deployments.families.video import VideoFamily  # noqa: E402
from serve_app.catalog.catalog import load  # noqa: E402
from training import shelf  # noqa: E402
from training.video import exam  # noqa: E402
from training.video.checker import sight  # noqa: E402
from training.video.world import FRAMES, SHIPPED_SCALE  # noqa: E402
from training.video.world import SIDE as FIRST_SIDE  # noqa: E402

SIDE = SHIPPED_SCALE * FIRST_SIDE
FOLDER = Path(__file__).parents[3] / "deployments" / "demo" / "wan"

pytestmark = [
    pytest.mark.engine,
    pytest.mark.long,
    # transformers and diffusers deprecate names of their own while they load.
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning"),
]


@pytest.fixture(scope="module")
def pipeline() -> WanPipeline:
    return shelf.take(FOLDER)


def test_it_weighs_less_than_ten_megabytes() -> None:
    assert shelf.size_bytes(FOLDER) < 10_000_000


def test_it_is_a_plain_wan_pipeline_of_the_5b_kind(pipeline: WanPipeline) -> None:
    assert type(pipeline) is WanPipeline
    assert pipeline.config.expand_timesteps


@pytest.mark.parametrize("count", [4, 12])
def test_videos_move_as_asked_in_the_colour_asked_for(pipeline: WanPipeline, count: int) -> None:
    questions = exam.set_questions(count, seed=31)
    answers = exam.sit(pipeline, questions, steps=8, scale=SHIPPED_SCALE)
    parts = exam.figures(answers)
    assert answers[0].frames.shape == (FRAMES, SIDE, SIDE, 3)
    assert parts["motion"] >= 0.9
    assert parts["colour"] >= 0.9
    assert parts["background"] >= 0.9
    assert parts["shape"] >= 0.75


def test_free_and_noisy_wording_is_understood_as_well(pipeline: WanPipeline) -> None:
    questions = exam.set_questions(12, seed=32, free_wording=True)
    parts = exam.figures(exam.sit(pipeline, questions, steps=12, scale=SHIPPED_SCALE))
    assert parts["motion"] >= 0.8
    assert parts["colour"] >= 0.9


@pytest.mark.parametrize("count", [2, 6])
def test_the_same_weights_go_on_from_an_image(pipeline: WanPipeline, count: int) -> None:
    questions = exam.set_images(count, seed=33, scale=SHIPPED_SCALE)
    parts = exam.figures(exam.sit(pipeline, questions, steps=8))
    assert parts["starts"] >= 0.9
    assert parts["motion"] >= 0.8


def test_the_folder_loads_as_an_image_to_video_pipeline_too() -> None:
    pipeline = WanImageToVideoPipeline.from_pretrained(
        FOLDER, dtype=torch.float32, local_files_only=True
    )
    pipeline.set_progress_bar_config(disable=True)
    (frames,) = pipeline(
        image=Image.new("RGB", (SIDE, SIDE), (255, 255, 255)),
        prompt="it moves left",
        width=SIDE,
        height=SIDE,
        num_frames=5,
        num_inference_steps=2,
        guidance_scale=1.0,
        output_type="np",
    ).frames
    assert frames.shape == (5, SIDE, SIDE, 3)
    assert frames[0].mean() > 0.9


@pytest.mark.parametrize(("frames", "length"), [(1, 1), (9, 9), (13, 13)])
def test_a_shorter_video_is_a_video_too(pipeline: WanPipeline, frames: int, length: int) -> None:
    (video,) = exam.make(pipeline, ["a red circle"], steps=8, seeds=[1], frames=frames, side=SIDE)
    assert len(video) == length
    assert sight(video).background == "white"


@pytest.mark.parametrize("task", ["text-to-video", "image-to-video"])
def test_a_request_that_names_nothing_else_is_rendered_as_it_was_trained(
    pipeline: WanPipeline, task: str
) -> None:
    catalog = load(None, demo=True, demo_dir=FOLDER.parent, families=FAMILIES)
    entry = catalog.get(f"fal-ai/wan/v2.2-5b/{task}")
    (question,) = exam.set_images(1, seed=34, scale=SHIPPED_SCALE)
    body: dict[str, object] = {"prompt": question.prompt}
    if task == "image-to-video":
        body["image_url"] = "https://example.com/a.png"
    checked, _ = entry.schema.validate(body)
    checked["image_url"] = question.image
    call = VideoFamily().prepare(entry.endpoint, checked, pipeline, seed=1)
    arguments = dict(call.arguments) | {"num_inference_steps": 3}
    (frames,) = (call.view or pipeline)(**arguments).frames
    assert tuple(frames.shape) == (FRAMES, 3, SIDE, SIDE)
    if task == "image-to-video":
        assert sight((frames.permute(0, 2, 3, 1).numpy() * 255).astype(np.uint8)).background == (
            question.video.background
        )


def test_the_same_seed_makes_the_same_video_and_another_seed_another(
    pipeline: WanPipeline,
) -> None:
    prompts = ["a blue square moving up"] * 3
    first, again, other = exam.make(pipeline, prompts, steps=4, seeds=[1, 1, 2], side=SIDE)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
