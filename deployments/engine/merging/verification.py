"""Verification that a merged forward gives the outputs that the calls get alone.

Another batch size uses other kernels, which add in another order. In float32 the resulting
difference is far below the effect of a mistake, and a fixed bound separates them: the difference is
at most 5e-6 of the greatest value over 194 cases of diffusers' pipelines. In 16 bits it depends on
the model. There the bound is measured: the difference that the same kernels cause for a call that
shares its forward with copies of itself only. So it is for modules that round their inputs to 8
bits, whatever their dtype: a difference in the last bit becomes a step of 1/127 there. And so it is
for convolutions in float32 on NVIDIA's GPUs, whose inputs torch lets cuDNN round to TF32, which has
float16's 10 bits: on an H200, a small SDXL's merged forwards differed by more than the bound.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.nn.modules.conv import _ConvNd as _Convolution

from deployments.engine.merging.arguments import held_in
from deployments.engine.merging.quantized import rounds_inputs

TOLERANCES: Mapping[torch.dtype, float] = {torch.float64: 1e-8, torch.float32: 1e-4}
"""Greatest difference, relative to the greatest value of the tensor."""

MAX_RMS: Mapping[torch.dtype, float] = {torch.float16: 1e-2, torch.bfloat16: 4e-2}
"""Upper bound of the root mean square difference, relative to the values' root mean square.

A greater difference is not noise, whatever its source.
"""

NOISE_FACTOR = 2.0
"""Multiple of the noise floor that a merge may reach; the floor is measured for some calls only."""

_Pairs = list[tuple[torch.Tensor, torch.Tensor]]


class _Unequal(Exception):
    """Structures differ, or values differ that rounding does not change."""


def low_precision_dtype(outputs: Sequence[Any], module: Any) -> torch.dtype | None:
    """The 16-bit dtype that limits the precision of ``outputs``; None if they are more precise.

    Some models return 32-bit outputs computed in 16. Those that compute in 8 bits are judged as in
    bfloat16, and those that convolve in TF32 as in float16.
    """
    if rounds_inputs(module):
        return torch.bfloat16
    computed_in = getattr(module, "dtype", None)
    tensors = [tensor for tensor, _ in _pairs(outputs, outputs)]
    dtypes = [tensor.dtype for tensor in tensors]
    if low := next((dtype for dtype in (computed_in, *dtypes) if dtype in MAX_RMS), None):
        return low
    on_host = all(tensor.device.type == "cpu" for tensor in tensors)
    return None if on_host or not _may_convolve_in_tf32(module) else torch.float16


def _may_convolve_in_tf32(module: Any) -> bool:
    return (
        torch.backends.cudnn.allow_tf32
        and isinstance(module, torch.nn.Module)
        and any(isinstance(submodule, _Convolution) for submodule in module.modules())
    )


def agree(
    merged: Sequence[Any],
    alone: Sequence[Any],
    dtype: torch.dtype | None,
    among_copies: Mapping[int, Any],
) -> bool:
    """Return whether the outputs have equal structure and equal numbers, within rounding.

    ``dtype``: the result of ``low_precision_dtype``. ``among_copies``: if ``dtype`` is not None,
    outputs of some of the calls, by number, each in a batch of the same size that contains only
    copies of that call.
    """
    try:
        pairs = _pairs(merged, alone)
        if dtype is None:
            return all(_within(TOLERANCES[b.dtype], a, b) for a, b in pairs)
        own = [alone[number] for number in among_copies]
        floor = relative_rms(_pairs([*among_copies.values()], own))
    except _Unequal:
        return False
    rounding = torch.finfo(dtype).eps / 4  # root mean square error of one rounding
    return relative_rms(pairs) <= max(rounding, min(NOISE_FACTOR * floor, MAX_RMS[dtype]))


def agree_within_rounding(output: Any, other: Any, module: Any) -> bool:
    """Return whether two outputs of one call of ``module`` are equal but for rounding.

    For code that adds in another order, or rounds less often. In 16 bits the bound is ``MAX_RMS``.
    """
    try:
        dtype = low_precision_dtype([output, other], module)
        if dtype is None:
            return agree([output], [other], None, {})
        return relative_rms(_pairs(output, other)) <= MAX_RMS[dtype]
    except _Unequal:
        return False


def relative_rms(pairs: _Pairs) -> float:
    """Root mean square of the differences, relative to the second tensors' root mean square."""
    return _length([a.double() - b.double() for a, b in pairs]) / (
        _length([b.double() for _, b in pairs]) or 1.0
    )


def _length(tensors: Sequence[torch.Tensor]) -> float:
    return sum(float(tensor.nan_to_num().square().sum()) for tensor in tensors) ** 0.5


def _pairs(value: Any, other: Any) -> _Pairs:
    """Pairs of floating-point tensors. Raises ``_Unequal`` when anything else differs."""
    if isinstance(value, torch.Tensor) and isinstance(other, torch.Tensor):
        return _pair(value, other)
    if type(value) is not type(other):
        raise _Unequal
    if dataclasses.is_dataclass(value):
        names = [field.name for field in dataclasses.fields(value)]
        return _all_pairs([(getattr(value, name), getattr(other, name)) for name in names])
    if isinstance(value, Mapping):
        if value.keys() != other.keys():
            raise _Unequal
        return _all_pairs([(value[key], other[key]) for key in value])
    if isinstance(value, list | tuple):
        if len(value) != len(other):
            raise _Unequal
        return _all_pairs(list(zip(value, other, strict=True)))
    if (content := held_in(value)) is not None:
        return _pairs(content, held_in(other))
    if value is not other and value != other:
        raise _Unequal
    return []


def _all_pairs(values: Sequence[tuple[Any, Any]]) -> _Pairs:
    return [pair for first, other in values for pair in _pairs(first, other)]


def _pair(tensor: torch.Tensor, other: torch.Tensor) -> _Pairs:
    if tensor.shape != other.shape or tensor.dtype != other.dtype:
        raise _Unequal
    if tensor.dtype not in TOLERANCES and tensor.dtype not in MAX_RMS:
        if tensor is not other and not torch.equal(tensor, other):
            raise _Unequal
        return []
    if tensor is not other and not torch.equal(tensor.isfinite(), other.isfinite()):
        raise _Unequal
    return [(tensor, other)]


def _within(tolerance: float, tensor: torch.Tensor, other: torch.Tensor) -> bool:
    if not tensor.numel():
        return True
    greatest = other.nan_to_num().abs().max()
    difference = (tensor - other).nan_to_num().abs().max()
    return bool(difference <= tolerance * greatest.clamp(min=torch.finfo(tensor.dtype).tiny))
