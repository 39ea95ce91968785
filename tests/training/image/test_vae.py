"""What the pixels of an image weigh in the loss of the autoencoder."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

from training.image.vae import weights_of  # noqa: E402
from training.image.world import Composition, Item  # noqa: E402


def of_circle(radius: float, colour: str = "red") -> torch.Tensor:
    item = Item(colour, "circle", "medium", 128.0, 128.0, radius)
    return weights_of([Composition("single", (item,), (), "white")])[0, 0]


def test_an_edge_weighs_more_than_what_it_surrounds_and_that_more_than_the_background() -> None:
    weights = of_circle(60.0)
    assert weights[128, 187] > weights[128, 128] > weights[128, 220] == 1.0


def test_a_small_object_and_a_faint_one_weigh_more() -> None:
    assert of_circle(20.0)[128, 128] > of_circle(60.0)[128, 128]
    assert of_circle(60.0, "gray")[128, 128] > of_circle(60.0)[128, 128]


def test_the_border_weighs_more_and_the_corners_most() -> None:
    weights = of_circle(60.0)
    assert weights[2, 2] > weights[0, 128] > weights[10, 128] == 1.0
    for row in (0, 255):
        assert weights[row, 0] == weights[row, 255] == weights.max()
