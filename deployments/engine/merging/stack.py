"""Stacking of several generations' call arguments into one call, and splitting of its output.

The order is sample-major: for two generations with the rows ``u c`` each (without and with the
prompt), the stacked rows are ``u1 u2 c1 c2``, because some models halve their batch. ``Splitter``
is the inverse of ``stack`` for outputs with one row per row of the input.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.nn.functional import pad

from deployments.engine.merging.arguments import CallArguments, held_in, refill
from deployments.engine.merging.plan import Leaf, Many, MergePlan, Role, Roles


class CannotSplit(Exception):
    """Output that does not have one row per row of the input."""


def stack(plans: Sequence[MergePlan]) -> CallArguments:
    """Stack the arguments of all plans for one call; the plans differ only in values."""
    first = plans[0]
    rows, device = first.rows.count, first.device
    all_values = [plan.arguments.named for plan in plans]
    named = {
        name: stack_values(first.roles[name], [values[name] for values in all_values], rows, device)
        for name in first.roles
        if name != first.declared.mask
    }
    if first.declared.mask:
        padded, dimension = next(iter(first.declared.pad.items()))
        lengths = [values[padded].shape[dimension] for values in all_values]
        named[first.declared.mask] = masks(
            [values.get(first.declared.mask) for values in all_values], lengths, rows, device
        )
    return first.arguments.with_values(named)


def stack_values(roles: Roles, values: Sequence[Any], rows: int, device: torch.device) -> Any:
    """Stack the values of all generations into one. ``rows``: rows of one generation."""
    if isinstance(roles, Many):
        stacked = {
            key: stack_values(role, [value[key] for value in values], rows, device)
            for key, role in roles.roles
        }
        return stacked if roles.kind is dict else roles.kind(stacked.values())
    if roles.role in _LISTS:
        return type(values[0])(whole[row] for row in range(rows) for whole in values)
    if roles.role in _EQUAL:
        return values[0]
    return _interleave(_tensors(roles, values, rows, device), rows)


_LISTS = (Role.LISTED, Role.REPEATED)
_EQUAL = (Role.SHARED, Role.CONSTANT)


def _tensors(
    leaf: Leaf, values: Sequence[Any], rows: int, device: torch.device
) -> Sequence[torch.Tensor]:
    """Transform each value as its role requires."""
    match leaf.role:
        case Role.ONE:
            return [value.expand(rows, *value.shape[1:]) for value in values]
        case Role.NUMBER:
            return [_vector(value, rows, device) for value in values]
        case Role.PADDED:
            return _to_one_length(values, leaf.dimension)
        case _:
            return values


def masks(values: Sequence[Any], lengths: Sequence[int], rows: int, device: torch.device) -> Any:
    """Stack the masks of padded arguments: [rows of all, the greatest of ``lengths``].

    None when there is no mask and none is needed.
    """
    if all(mask is None for mask in values) and len(set(lengths)) == 1:
        return None
    dtype = next((mask.dtype for mask in values if mask is not None), torch.bool)
    filled_masks = [
        torch.ones(rows, length, dtype=dtype, device=device) if value is None else value
        for value, length in zip(values, lengths, strict=True)
    ]
    return _interleave(_to_one_length(filled_masks, 1), rows)


@dataclasses.dataclass(frozen=True, slots=True)
class Splitter:
    """Splitter of the output of a stacked call."""

    generations: int
    rows: int  # rows of each generation
    listed: bool  # the model takes and returns lists with one tensor per row

    @classmethod
    def of(cls, plans: Sequence[MergePlan]) -> Splitter:
        rows = plans[0].rows
        return cls(len(plans), rows.count, rows.listed)

    def stack(self, values: Sequence[Any]) -> Any:
        """Stack one value per generation, in stacking order.

        Each value is a tensor with the generation's rows, a tuple of such tensors, or None.
        """
        if values[0] is None:
            return None
        if isinstance(values[0], tuple):
            return tuple(map(self.stack, zip(*values, strict=True)))
        return _interleave(values, self.rows)

    def split(self, output: Any) -> list[Any]:
        """Split an output; returns each generation's own output, in stacking order.

        Raises ``CannotSplit`` if a tensor's first dimension is not a multiple of the stacked rows.
        """
        if isinstance(output, torch.Tensor):
            return self._parts(output)
        if dataclasses.is_dataclass(output):
            named = {
                field.name: getattr(output, field.name) for field in dataclasses.fields(output)
            }
            return [type(output)(**fields) for fields in self._by_name(named)]
        if isinstance(output, Mapping):
            kind: Any = type(output)
            return [kind(fields) for fields in self._by_name(output)]
        if isinstance(output, list | tuple):
            return self._sequence(output)
        if output is None or isinstance(output, bool | int | float | str):
            return [output] * self.generations
        if (content := held_in(output)) is not None:
            return [refill(output, part) for part in self.split(content)]
        raise CannotSplit(f"the output holds a {type(output).__name__}")

    def _by_name(self, named: Mapping[str, Any]) -> list[dict[str, Any]]:
        parts = {name: self.split(value) for name, value in named.items()}
        return [
            {name: part[number] for name, part in parts.items()}
            for number in range(self.generations)
        ]

    def _sequence(self, output: list[Any] | tuple[Any, ...]) -> list[Any]:
        kind = type(output)
        if self.listed and len(output) == self.generations * self.rows:
            return [kind(output[number :: self.generations]) for number in range(self.generations)]
        parts = [self.split(item) for item in output]
        return [kind(part[number] for part in parts) for number in range(self.generations)]

    def _parts(self, tensor: torch.Tensor) -> list[torch.Tensor]:
        if tensor.ndim == 0 or tensor.shape[0] % (self.generations * self.rows):
            raise CannotSplit(f"the output has the shape {tuple(tensor.shape)}")
        rows = tensor.unflatten(0, (self.rows, self.generations, -1))
        return [rows[:, number].flatten(0, 1).contiguous() for number in range(self.generations)]


def _interleave(tensors: Sequence[torch.Tensor], rows: int) -> torch.Tensor:
    """Interleave tensors [rows × any, …] to one [rows × generations × any, …]."""
    if rows == 1:
        return torch.cat(list(tensors))
    split = [tensor.unflatten(0, (rows, -1)) for tensor in tensors]
    return torch.stack(split, dim=1).flatten(0, 2)


def _vector(value: Any, rows: int, device: torch.device) -> torch.Tensor:
    """Expand to [rows]; numbers get the dtype that diffusers' UNets give them."""
    if isinstance(value, torch.Tensor):
        return value.expand(rows)
    dtype = torch.float64 if isinstance(value, float) else torch.int64
    return torch.full((rows,), value, dtype=dtype, device=device)


def _to_one_length(tensors: Sequence[torch.Tensor], dimension: int) -> list[torch.Tensor]:
    longest = max(tensor.shape[dimension] for tensor in tensors)
    after = [0, 0] * (tensors[0].ndim - 1 - dimension)
    return [pad(tensor, [*after, 0, longest - tensor.shape[dimension]]) for tensor in tensors]
