"""Attention while training: the same numbers as torch's own, and the same gradients."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from training.attention import PlainAttention


def test_it_gives_what_the_fused_kernel_gives_and_the_same_gradients() -> None:
    fused, fused_gradients = _run()
    with PlainAttention():
        plain, plain_gradients = _run()

    torch.testing.assert_close(plain, fused)
    torch.testing.assert_close(plain_gradients, fused_gradients)


def test_attention_with_a_mask_keeps_its_mask() -> None:
    mask = torch.ones(5, 7, dtype=torch.bool).tril()
    fused = functional.scaled_dot_product_attention(*_tensors(), mask)
    with PlainAttention():
        by_place = functional.scaled_dot_product_attention(*_tensors(), mask)
        by_name = functional.scaled_dot_product_attention(*_tensors(), attn_mask=mask)

    torch.testing.assert_close(by_place, fused)
    torch.testing.assert_close(by_name, fused)


def _run() -> tuple[Tensor, list[Tensor]]:
    query, key, value = _tensors()
    attended = functional.scaled_dot_product_attention(query=query, key=key, value=value)
    attended.square().sum().backward()
    return attended, [tensor.grad for tensor in (query, key, value) if tensor.grad is not None]


def _tensors() -> list[Tensor]:
    torch.manual_seed(0)
    return [torch.randn(2, 3, tokens, 8, requires_grad=True) for tokens in (5, 7, 7)]
