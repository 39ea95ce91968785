"""What the image transformer is trained on and grown by."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

from training import shelf  # noqa: E402
from training.image.examples import Batch, pack, unpack  # noqa: E402
from training.image.flux import deepen, image_ids, object_weights, redraw  # noqa: E402

DEMO = Path(__file__).parents[3] / "deployments" / "demo" / "flux"


def test_unpacked_latents_are_those_that_were_packed() -> None:
    latents = torch.randn(2, 12, 6, 4)
    assert torch.equal(unpack(pack(latents), rows=3, columns=2), latents)


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_a_transformer_without_errors_draws_the_same_again(steps: int) -> None:
    batch = Batch(torch.randn(2, 6, 48), torch.zeros(2, 1), torch.zeros(2, 1), rows=3, columns=2)

    def perfect(noisy: torch.Tensor, level: torch.Tensor, _: Batch) -> torch.Tensor:
        return (noisy - batch.latents) / level[:, None, None]

    stack: Any = perfect
    assert torch.allclose(redraw(stack, batch, steps), batch.latents, atol=1e-5)


def test_new_blocks_change_nothing_before_they_are_trained() -> None:
    shipped = shelf.take(DEMO).transformer.eval()
    deep = deepen(shipped, shipped.config.num_single_layers + 2).eval()
    rows = columns = 4
    inputs = {
        "hidden_states": torch.randn(1, rows * columns, 48),
        "encoder_hidden_states": torch.randn(1, 3, shipped.config.joint_attention_dim),
        "pooled_projections": torch.randn(1, shipped.config.pooled_projection_dim),
        "timestep": torch.tensor([0.5]),
        "img_ids": image_ids(rows, columns),
        "txt_ids": torch.zeros(3, 3),
        "return_dict": False,
    }
    with torch.no_grad():
        assert torch.allclose(deep(**inputs)[0], shipped(**inputs)[0], atol=1e-5)


def test_objects_weigh_as_much_as_the_whole_image() -> None:
    latents = torch.zeros(1, 64, 48)
    latents[0, :4] = 2.0
    weights = object_weights(latents)
    assert weights.mean().item() == pytest.approx(1.0)
    assert weights[0, 0].item() == pytest.approx(8.5)
    assert weights[0, 5].item() == pytest.approx(0.5)


def test_an_image_of_background_has_weights_too() -> None:
    assert object_weights(torch.zeros(1, 64, 48)).sum().item() == pytest.approx(32.0)
