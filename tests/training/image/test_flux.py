"""Latents that the transformer draws again, on which the decoder is fitted."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

from training.examples import Batch, pack, unpack  # noqa: E402
from training.image.flux import redraw  # noqa: E402


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
