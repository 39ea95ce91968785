"""Weaves the arguments of several generations' calls into one, and its output apart again.

Sample-major: of two generations with the rows ``u c`` each (without and with the prompt), the woven
rows are ``u1 u2 c1 c2``, because some models halve their batch. ``Parting`` is the inverse
of ``weave`` for whatever has a row per row.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.nn.functional import pad

from deployments.engine.outputs import held_in, refilled
from deployments.engine.roles import Leaf, Many, Role, Roles


class CannotPart(Exception):
    """The output has no row per row of the input."""


def weave(roles: Roles, values: Sequence[Any], rows: int, device: torch.device) -> Any:
    """One value of those that each generation gave; ``rows``: of one generation."""
    if isinstance(roles, Many):
        woven = {
            key: weave(role, [value[key] for value in values], rows, device)
            for key, role in roles.roles
        }
        return woven if roles.kind is dict else roles.kind(woven.values())
    if roles.role in _LISTS:
        return type(values[0])(each[row] for row in range(rows) for each in values)
    if roles.role in _EQUAL:
        return values[0]
    return _interleave(_tensors(roles, values, rows, device), rows)


_LISTS = (Role.LISTED, Role.REPEATED)
_EQUAL = (Role.SHARED, Role.CONSTANT)


def _tensors(
    leaf: Leaf, values: Sequence[Any], rows: int, device: torch.device
) -> Sequence[torch.Tensor]:
    """With what the role asks for done to each."""
    match leaf.role:
        case Role.ONE:
            return [each.expand(rows, *each.shape[1:]) for each in values]
        case Role.NUMBER:
            return [_vector(each, rows, device) for each in values]
        case Role.PADDED:
            return _to_one_length(values, leaf.dimension)
        case _:
            return values


def masks(values: Sequence[Any], lengths: Sequence[int], rows: int, device: torch.device) -> Any:
    """The woven mask of padded arguments: [rows of all, the greatest of ``lengths``]. None where
    nobody gave one and none is needed."""
    if all(each is None for each in values) and len(set(lengths)) == 1:
        return None
    given = next((each.dtype for each in values if each is not None), torch.bool)
    made = [
        torch.ones(rows, length, dtype=given, device=device) if value is None else value
        for value, length in zip(values, lengths, strict=True)
    ]
    return _interleave(_to_one_length(made, 1), rows)


@dataclasses.dataclass(frozen=True, slots=True)
class Parting:
    """Takes the output of a woven call apart."""

    generations: int
    rows: int  # of each generation
    listed: bool  # the model takes and gives lists with one tensor per row

    def together(self, values: Sequence[Any]) -> Any:
        """One of what each generation has, in the order in which they are woven; tensors with its
        rows, tuples of them, or None."""
        if values[0] is None:
            return None
        if isinstance(values[0], tuple):
            return tuple(map(self.together, zip(*values, strict=True)))
        return _interleave(values, self.rows)

    def apart(self, output: Any) -> list[Any]:
        """Each generation's own output, in the order in which they were woven.

        ``CannotPart`` where something has neither as many rows as were woven nor a multiple.
        """
        if isinstance(output, torch.Tensor):
            return self._parts(output)
        if dataclasses.is_dataclass(output):
            named = {each.name: getattr(output, each.name) for each in dataclasses.fields(output)}
            return [type(output)(**each) for each in self._by_name(named)]
        if isinstance(output, Mapping):
            return [type(output)(each) for each in self._by_name(output)]  # pyright: ignore[reportCallIssue]
        if isinstance(output, list | tuple):
            return self._sequence(output)
        if output is None or isinstance(output, bool | int | float | str):
            return [output] * self.generations
        if (held := held_in(output)) is not None:
            return [refilled(output, each) for each in self.apart(held)]
        raise CannotPart(f"the output holds a {type(output).__name__}")

    def _by_name(self, named: Mapping[str, Any]) -> list[dict[str, Any]]:
        parts = {name: self.apart(value) for name, value in named.items()}
        return [
            {name: each[number] for name, each in parts.items()}
            for number in range(self.generations)
        ]

    def _sequence(self, output: list[Any] | tuple[Any, ...]) -> list[Any]:
        kind = type(output)
        if self.listed and len(output) == self.generations * self.rows:
            return [kind(output[number :: self.generations]) for number in range(self.generations)]
        parts = [self.apart(each) for each in output]
        return [kind(each[number] for each in parts) for number in range(self.generations)]

    def _parts(self, tensor: torch.Tensor) -> list[torch.Tensor]:
        if tensor.ndim == 0 or tensor.shape[0] % (self.generations * self.rows):
            raise CannotPart(f"the output has the shape {tuple(tensor.shape)}")
        split = tensor.unflatten(0, (self.rows, self.generations, -1))
        return [split[:, number].flatten(0, 1).contiguous() for number in range(self.generations)]


def _interleave(tensors: Sequence[torch.Tensor], rows: int) -> torch.Tensor:
    """Tensors [rows × any, …] as one [rows × generations × any, …]."""
    if rows == 1:
        return torch.cat(list(tensors))
    split = [each.unflatten(0, (rows, -1)) for each in tensors]
    return torch.stack(split, dim=1).flatten(0, 2)


def _vector(value: Any, rows: int, device: torch.device) -> torch.Tensor:
    """[rows]; numbers as the dtype that diffusers' UNets give them."""
    if isinstance(value, torch.Tensor):
        return value.expand(rows)
    dtype = torch.float64 if isinstance(value, float) else torch.int64
    return torch.full((rows,), value, dtype=dtype, device=device)


def _to_one_length(tensors: Sequence[torch.Tensor], dimension: int) -> list[torch.Tensor]:
    longest = max(each.shape[dimension] for each in tensors)
    after = [0, 0] * (tensors[0].ndim - 1 - dimension)
    return [pad(each, [*after, 0, longest - each.shape[dimension]]) for each in tensors]
