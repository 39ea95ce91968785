"""The shipped SDXL pipeline draws, redraws and paints in what prompts ask that its training never
saw.

The thresholds lie well below the measured figures in deployments/demo/sdxl/README.md.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

from diffusers import StableDiffusionXLPipeline  # noqa: E402
from PIL import Image, ImageDraw  # noqa: E402

from deployments.families.base import GenerationResult  # noqa: E402
from deployments.families.sdxl import SdxlFamily  # noqa: E402
from serve_app.domain.artifact import UploadTicket  # noqa: E402
from serve_app.domain.endpoint import Endpoint, Weights  # noqa: E402
from training import shelf  # noqa: E402
from training.image import exam  # noqa: E402
from training.image.checker import Reading, Sight, read  # noqa: E402
from training.image.world import SIDE  # noqa: E402
from training.palette import OBJECT_COLOURS  # noqa: E402

FOLDER = Path(__file__).parents[3] / "deployments" / "demo" / "sdxl"
STEPS, GUIDANCE = 10, 2.0
SEEDS = pytest.mark.parametrize("seeds", [3, 6])

pytestmark = [
    pytest.mark.engine,
    pytest.mark.long,
    # transformers and diffusers deprecate names of their own while they load.
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning"),
]


@pytest.fixture(scope="module")
def pipeline() -> StableDiffusionXLPipeline:
    return shelf.take(FOLDER)


@pytest.fixture(scope="module", params=[8, 40])
def regular(
    pipeline: StableDiffusionXLPipeline, request: pytest.FixtureRequest
) -> dict[str, float]:
    questions = exam.set_questions(request.param, seed=31)
    return exam.figures(exam.sit(pipeline, questions, steps=STEPS, guidance=GUIDANCE))


def test_it_weighs_less_than_twelve_megabytes() -> None:
    assert shelf.size_bytes(FOLDER) < 12_000_000


def test_it_is_a_plain_sdxl_pipeline(pipeline: StableDiffusionXLPipeline) -> None:
    assert type(pipeline) is StableDiffusionXLPipeline


def test_it_draws_the_background_number_colours_and_shapes_asked_for(
    regular: dict[str, float],
) -> None:
    assert regular["background"] >= 0.95
    assert regular["count"] >= 0.9
    assert regular["colour"] >= 0.9
    assert regular["shape"] >= 0.7


def test_it_draws_each_of_two_objects_where_the_prompt_says(regular: dict[str, float]) -> None:
    assert regular["relation"] >= 0.65


def test_it_counts_to_four(pipeline: StableDiffusionXLPipeline) -> None:
    prompts = ["a blue square", "two blue squares", "three blue squares", "four blue squares"]
    images = exam.draw(pipeline, prompts, steps=STEPS, guidance=GUIDANCE, seeds=range(4))
    seen = [[sight.look for sight in read(image).sights] for image in images]
    assert [len(looks) for looks in seen] == [1, 2, 3, 4]
    assert {look for looks in seen for look in looks} == {("blue", "square")}


def test_the_endpoints_own_defaults_draw_as_well(pipeline: StableDiffusionXLPipeline) -> None:
    questions = exam.set_questions(20, seed=33)
    seen = exam.figures(exam.sit(pipeline, questions, steps=25, guidance=7.5))
    assert seen["background"] >= 0.9
    assert seen["colour"] >= 0.75


def test_what_is_not_wanted_is_not_drawn(pipeline: StableDiffusionXLPipeline) -> None:
    settings = {"num_inference_steps": 10, "guidance_scale": 4.0, "width": SIDE, "height": SIDE}

    def cyan(unwanted: str | None) -> int:
        """Number of images with a cyan circle, of eight."""
        seeds = [torch.Generator().manual_seed(seed) for seed in range(8)]
        negative = None if unwanted is None else [unwanted] * 8
        images = pipeline(
            prompt=["a circle"] * 8, negative_prompt=negative, generator=seeds, **settings
        ).images
        looks = [{sight.look for sight in read(image).sights} for image in images]
        return sum(("cyan", "circle") in image_looks for image_looks in looks)

    assert cyan(None) >= 2
    assert cyan("a cyan circle") == 0


@SEEDS
def test_an_image_redrawn_keeps_its_layout_and_takes_the_new_colour(
    pipeline: StableDiffusionXLPipeline, seeds: int
) -> None:
    rights = 0
    for seed in range(seeds):
        drawn = _scene("red", (128, 80), "blue", (128, 184))
        redrawn = _made(
            pipeline,
            "image-to-image",
            prompt="a green circle above a blue square",
            image_url=drawn,
            strength=0.7,
            seed=seed,
        )
        before, after = read(drawn), read(redrawn)
        places = [min(_far(a, b) for a in after.sights) for b in before.sights]
        rights += _colours(after) == {"green", "blue"} and max(places) < 40
    assert rights >= seeds * 2 / 3


@SEEDS
def test_only_what_the_mask_shows_is_painted_anew(
    pipeline: StableDiffusionXLPipeline, seeds: int
) -> None:
    rights = 0
    for seed in range(seeds):
        drawn = _scene("red", (64, 128), "blue", (192, 128))
        mask = Image.new("L", (SIDE, SIDE))
        ImageDraw.Draw(mask).rectangle((128, 0, SIDE, SIDE), fill=255)
        painted = _made(
            pipeline,
            "inpainting",
            prompt="a red circle to the left of a yellow square",
            image_url=drawn,
            mask_url=mask,
            strength=1.0,
            seed=seed,
        )
        left = (0, 0, 128, SIDE)
        assert painted.crop(left).tobytes() == drawn.crop(left).tobytes()
        rights += _colours(read(painted)) == {"red", "yellow"}
    assert rights >= seeds * 2 / 3


def _made(pipeline: StableDiffusionXLPipeline, task: str, **input: object) -> Image.Image:
    """As the family calls it for a request, without the engine around it."""
    endpoint = Endpoint(
        "demo",
        "sdxl",
        Weights(str(FOLDER), demo=True),
        "sdxl",
        options={"task": task, "native_size": SIDE},
    )
    size = {"width": SIDE, "height": SIDE}
    fields = {"num_inference_steps": 20, "guidance_scale": 3.0, "image_size": size, **input}
    call = SdxlFamily().prepare(endpoint, fields, pipeline, seed=0)
    result = GenerationResult(call.view(**call.arguments), 0.0, 20)
    ticket = UploadTicket("key", "https://storage", "image/png", 10**7)
    (file,) = SdxlFamily().deliver(endpoint, call, result, [ticket]).files
    assert file.image is not None
    return file.image


def _scene(first: str, at: tuple[int, int], second: str, other: tuple[int, int]) -> Image.Image:
    """A circle and a square."""
    image = Image.new("RGB", (SIDE, SIDE), "white")
    pen = ImageDraw.Draw(image)
    pen.ellipse((at[0] - 44, at[1] - 44, at[0] + 44, at[1] + 44), fill=OBJECT_COLOURS[first])
    pen.rectangle(
        (other[0] - 40, other[1] - 40, other[0] + 40, other[1] + 40), fill=OBJECT_COLOURS[second]
    )
    return image


def _colours(reading: Reading) -> set[str]:
    return {sight.colour for sight in reading.sights}


def _far(one: Sight, other: Sight) -> float:
    return float(np.hypot(one.x - other.x, one.y - other.y))
