"""Layers that each row of a forward has with LoRAs of its own."""

import pytest
import torch

from deployments.engine.accelerator.cpu import Cpu
from deployments.engine.lora.changes import LoraPair
from deployments.engine.lora.layers import build_layer
from deployments.engine.lora.rows import LoraRows

pytestmark = pytest.mark.engine


def test_layers_that_compute_in_other_types_share_a_forward():
    """Such as those that a half-precision model keeps in float32."""
    rows = LoraRows(Cpu())
    pair = LoraPair(torch.randn(2, 4), torch.randn(3, 2), 0.5)
    for_all = [torch.nn.Linear(4, 3).to(dtype) for dtype in (torch.float64, torch.float32)]
    layers = [
        build_layer(base, "a", pair, rows, lambda half, own=base.weight.dtype: half.to(own))
        for base in for_all
    ]
    with rows.use_mixes(["a", ""]), torch.no_grad():
        for base, layer in zip(for_all, layers, strict=True):
            x = torch.randn(2, 5, 4, dtype=base.weight.dtype)
            output, expected = layer(x), base(x)
            expected[0] += x[0] @ (0.5 * pair.up @ pair.down).mT.to(x.dtype)
            assert output.dtype == x.dtype
            assert torch.allclose(output, expected, atol=1e-5)
