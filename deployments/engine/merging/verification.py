"""Whether a merged forward gave what the calls give alone.

Another batch size takes other kernels, and those add in another order. In float32 that is far from
what a mistake does, and a fixed bound tells them apart: at most 5e-6 of the greatest value over 194
cases of diffusers' pipelines. In 16 bits it depends on the model. There the bound is what the same
kernels do to a call that shares its forward with copies of itself, and so with nobody else.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from deployments.engine.outputs import held_in

TOLERANCES: Mapping[torch.dtype, float] = {torch.float64: 1e-8, torch.float32: 1e-4}
"""Greatest difference, relative to the greatest value of the tensor."""

MOST: Mapping[torch.dtype, float] = {torch.float16: 1e-2, torch.bfloat16: 4e-2}
"""Beyond this, root mean square relative to that of the values, it is no noise whatever its
source."""

TIMES = 2.0
"""The noise floor that merging may reach: the floor is measured for one of the calls."""

_Pairs = list[tuple[torch.Tensor, torch.Tensor]]


class _Unlike(Exception):
    """Not the same structure, or other values where rounding changes none."""


def coarse(outputs: Sequence[Any], computed_in: torch.dtype | None) -> torch.dtype | None:
    """The dtype of 16 bits that ``outputs`` are as exact as; None where they are more so.
    ``computed_in``: the model's dtype, as some give 32 bits of what they computed in 16."""
    given = [pair[0].dtype for pair in _pairs(outputs, outputs)]
    return next((each for each in (computed_in, *given) if each in MOST), None)


def agree(
    merged: Sequence[Any],
    alone: Sequence[Any],
    dtype: torch.dtype | None,
    beside_itself: Any,
) -> bool:
    """Whether the outputs are equal in structure and, wherever there are numbers, within rounding.

    ``dtype``: as ``coarse`` gives it. ``beside_itself``: where it gives one, what the first call
    gets in as large a batch of copies of itself.
    """
    try:
        pairs = _pairs(merged, alone)
        if dtype is None:
            return all(_within(TOLERANCES[b.dtype], a, b) for a, b in pairs)
        floor = apart(_pairs(beside_itself, alone[0]))
    except _Unlike:
        return False
    rounding = torch.finfo(dtype).eps / 4  # what one does
    return apart(pairs) <= max(rounding, min(TIMES * floor, MOST[dtype]))


def apart(pairs: _Pairs) -> float:
    """Root mean square of the differences, relative to that of the second ones."""
    return _length([a.double() - b.double() for a, b in pairs]) / (
        _length([b.double() for _, b in pairs]) or 1.0
    )


def _length(tensors: Sequence[torch.Tensor]) -> float:
    return sum(float(each.nan_to_num().square().sum()) for each in tensors) ** 0.5


def _pairs(one: Any, other: Any) -> _Pairs:
    """Of floating-point tensors. ``_Unlike`` where anything else differs."""
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return _pair(one, other)
    if type(one) is not type(other):
        raise _Unlike
    if dataclasses.is_dataclass(one):
        names = [each.name for each in dataclasses.fields(one)]
        return _all_pairs([(getattr(one, name), getattr(other, name)) for name in names])
    if isinstance(one, Mapping):
        if one.keys() != other.keys():
            raise _Unlike
        return _all_pairs([(one[key], other[key]) for key in one])
    if isinstance(one, list | tuple):
        if len(one) != len(other):
            raise _Unlike
        return _all_pairs(list(zip(one, other, strict=True)))
    if (held := held_in(one)) is not None:
        return _pairs(held, held_in(other))
    if one is not other and one != other:
        raise _Unlike
    return []


def _all_pairs(values: Sequence[tuple[Any, Any]]) -> _Pairs:
    return [pair for one, other in values for pair in _pairs(one, other)]


def _pair(one: torch.Tensor, other: torch.Tensor) -> _Pairs:
    if one.shape != other.shape or one.dtype != other.dtype:
        raise _Unlike
    if one.dtype not in TOLERANCES and one.dtype not in MOST:
        if not torch.equal(one, other):
            raise _Unlike
        return []
    if not torch.equal(one.isfinite(), other.isfinite()):
        raise _Unlike
    return [(one, other)]


def _within(tolerance: float, one: torch.Tensor, other: torch.Tensor) -> bool:
    if not one.numel():
        return True
    greatest = other.nan_to_num().abs().max()
    difference = (one - other).nan_to_num().abs().max()
    return bool(difference <= tolerance * greatest.clamp(min=torch.finfo(one.dtype).tiny))
