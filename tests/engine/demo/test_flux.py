"""The shipped demo pipeline draws what prompts ask that its training never saw.

The thresholds lie well below the measured figures in deployments/demo/flux/README.md, so that
another torch or processor does not fail them and a broken model does.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

from diffusers import FluxPipeline  # noqa: E402
from PIL import Image  # noqa: E402

from deployments.families.flux import FluxFamily  # noqa: E402
from serve_app.domain.endpoint import Endpoint, Weights  # noqa: E402
from training import shelf  # noqa: E402
from training.image import exam  # noqa: E402
from training.image.checker import read  # noqa: E402
from training.image.world import SIDE  # noqa: E402

FOLDER = Path(__file__).parents[3] / "deployments" / "demo" / "flux"

pytestmark = [
    pytest.mark.engine,
    pytest.mark.long,
    # transformers and diffusers deprecate names of their own while they load.
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning"),
]


@pytest.fixture(scope="module")
def pipeline() -> FluxPipeline:
    return shelf.take(FOLDER)


@pytest.fixture(scope="module", params=[8, 40])
def regular(pipeline: FluxPipeline, request: pytest.FixtureRequest) -> dict[str, float]:
    return _figures(pipeline, count=request.param, free_wording=False)


@pytest.fixture(scope="module")
def free(pipeline: FluxPipeline) -> dict[str, float]:
    return _figures(pipeline, count=40, free_wording=True)


@pytest.fixture(scope="module")
def landscape(pipeline: FluxPipeline) -> dict[str, float]:
    return _figures(pipeline, count=20, free_wording=False, height=192)


def test_it_weighs_less_than_twelve_megabytes() -> None:
    assert shelf.size_bytes(FOLDER) < 12_000_000


def test_it_is_a_plain_flux_pipeline_of_the_schnell_kind(pipeline: FluxPipeline) -> None:
    assert type(pipeline) is FluxPipeline
    assert not pipeline.transformer.config.guidance_embeds


def test_it_draws_the_background_number_colours_and_shapes_asked_for(
    regular: dict[str, float],
) -> None:
    assert regular["background"] >= 0.95
    assert regular["count"] >= 0.9
    assert regular["colour"] >= 0.9
    assert regular["shape"] >= 0.85


def test_it_draws_each_object_where_the_prompt_says(regular: dict[str, float]) -> None:
    assert regular["relation"] >= 0.65


def test_it_draws_pairs_on_white_all_but_always_right(pipeline: FluxPipeline) -> None:
    questions = [
        question
        for question in exam.set_questions(200, seed=32)
        if question.composition.layout == "pair" and question.composition.background == "white"
    ]
    assert len(questions) >= 15
    assert exam.figures(exam.sit(pipeline, questions, steps=4))["everything"] >= 0.85


@pytest.mark.parametrize("copies", [1, 3])
def test_it_draws_single_shapes_on_white(pipeline: FluxPipeline, copies: int) -> None:
    looks = [("green", "triangle"), ("cyan", "heart"), ("blue", "ring"), ("black", "cross")]
    prompts = [f"a {colour} {shape}" for colour, shape in looks]
    images = exam.draw(pipeline, prompts * copies, steps=4, seeds=range(4 * copies))
    seen = [[(sight.colour, sight.shape) for sight in read(image).sights] for image in images]
    right = sum(shapes == [look] for shapes, look in zip(seen, looks * copies, strict=True))
    assert right >= 4 * copies - 1


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_it_counts_to_four(pipeline: FluxPipeline, count: int) -> None:
    words = {1: "a blue square", 2: "two blue squares", 3: "three blue squares"}
    prompt = words.get(count, "four blue squares")
    images = exam.draw(pipeline, [prompt] * 3, steps=4, seeds=range(3))
    seen = [[sight.look for sight in read(image).sights] for image in images]
    assert seen == [[("blue", "square")] * count] * 3


def test_it_draws_three_objects_with_two_relations(pipeline: FluxPipeline) -> None:
    prompt = "a red circle above a blue square and left of a green triangle"
    (image,) = exam.draw(pipeline, [prompt], steps=4, seeds=[1])
    places = {sight.look: (sight.x, sight.y) for sight in read(image).sights}
    red, blue, green = (
        places["red", "circle"],
        places["blue", "square"],
        places["green", "triangle"],
    )
    assert len(places) == 3
    assert blue[1] - red[1] > SIDE / 4
    assert green[0] - red[0] > SIDE / 4


def test_it_understands_free_and_noisy_wording_as_well(free: dict[str, float]) -> None:
    assert free["background"] >= 0.95
    assert free["colour"] >= 0.9
    assert free["relation"] >= 0.65


def test_it_draws_landscapes_too(landscape: dict[str, float]) -> None:
    assert landscape["background"] >= 0.95
    assert landscape["colour"] >= 0.9
    assert landscape["shape"] >= 0.45


@pytest.mark.parametrize("seeds", [3, 6])
def test_an_image_redrawn_keeps_its_layout_and_takes_the_new_colour(
    pipeline: FluxPipeline, seeds: int
) -> None:
    drawn = exam.draw(pipeline, ["a red circle above a blue square"], steps=4, seeds=[3])[0]
    before = read(drawn)
    assert {sight.colour for sight in before.sights} == {"red", "blue"}
    rights = 0
    for seed in range(seeds):
        endpoint = Endpoint(
            "demo",
            "flux",
            Weights(str(FOLDER), demo=True),
            "flux",
            options={"task": "image-to-image", "native_size": SIDE},
        )
        fields = {
            "prompt": "a green circle above a blue square",
            "image_url": drawn,
            "strength": 0.8,
            "num_inference_steps": 10,
            "guidance_scale": 0.0,
            "seed": seed,
        }
        call = FluxFamily().prepare(endpoint, fields, pipeline, seed=0)
        (pixels,) = call.view(**call.arguments).images
        image = Image.fromarray((pixels.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8))
        after = read(image)
        far = [min(np.hypot(a.x - b.x, a.y - b.y) for a in after.sights) for b in before.sights]
        rights += {sight.colour for sight in after.sights} == {"green", "blue"} and max(far) < 40
    assert rights >= seeds * 2 / 3


def test_case_does_not_change_the_image(pipeline: FluxPipeline) -> None:
    lower, upper = exam.draw(pipeline, ["a red circle", "A RED Circle"], steps=4, seeds=[5, 5])
    assert np.array_equal(np.asarray(lower), np.asarray(upper))


def test_the_same_seed_draws_the_same_image_and_another_seed_another(
    pipeline: FluxPipeline,
) -> None:
    first, again, other = exam.draw(pipeline, ["a blue star"] * 3, steps=4, seeds=[1, 1, 2])
    assert np.array_equal(np.asarray(first), np.asarray(again))
    assert not np.array_equal(np.asarray(first), np.asarray(other))


def _figures(
    pipeline: FluxPipeline, *, count: int, free_wording: bool, height: int = SIDE
) -> dict[str, float]:
    questions = exam.set_questions(count, seed=31, free_wording=free_wording, height=height)
    return exam.figures(exam.sit(pipeline, questions, steps=4))
