"""Layers that each row of a forward has with adapters of its own."""

import pytest
import torch

from deployments.engine.adapter import LowRank
from deployments.engine.adapter_layers import AdapterRows, built
from deployments.engine.module_building import ONE_BUILDER

pytestmark = pytest.mark.engine


def test_layers_that_compute_in_other_types_share_a_forward():
    """Such as those that a half-precision model keeps in float32."""
    rows = AdapterRows()
    pair = LowRank(torch.randn(2, 4), torch.randn(3, 2), 0.5)
    for_all = [torch.nn.Linear(4, 3).to(dtype) for dtype in (torch.float64, torch.float32)]
    with ONE_BUILDER:
        layers = [built(base, "a", pair, rows, "cpu", base.weight.dtype) for base in for_all]
    with rows.having(["a", ""]), torch.no_grad():
        for base, layer in zip(for_all, layers, strict=True):
            x = torch.randn(2, 5, 4, dtype=base.weight.dtype)
            made, expected = layer(x), base(x)
            expected[0] += x[0] @ (0.5 * pair.up @ pair.down).mT.to(x.dtype)
            assert made.dtype == x.dtype
            assert torch.allclose(made, expected, atol=1e-5)
