"""Parts of a call: some of its rows each, and joining of their outputs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from deployments.engine.merging.arguments import CallArguments
from deployments.engine.merging.plan import Many, MergePlan, Role, Roles
from deployments.engine.merging.stack import CannotSplit


@dataclass(frozen=True, slots=True)
class RowPart:
    """Some rows of a call."""

    arguments: CallArguments
    rows: slice

    @property
    def count(self) -> int:
        return self.rows.stop - self.rows.start


def parts_of(plan: MergePlan, parts: int) -> Sequence[RowPart]:
    """Divide a call into ``parts`` of consecutive rows, the first ones the largest."""
    count, row_parts, start = plan.rows.count, list[RowPart](), 0
    for number in range(parts):
        rows = slice(start, start + count // parts + (number < count % parts))
        named = {
            name: _cut(role, plan.arguments.named[name], rows, count)
            for name, role in plan.roles.items()
        }
        row_parts.append(RowPart(plan.arguments.with_values(named), rows))
        start = rows.stop
    return row_parts


def _cut(roles: Roles, value: Any, rows: slice, count: int) -> Any:
    if isinstance(roles, Many):
        cut = {key: _cut(role, value[key], rows, count) for key, role in roles.roles}
        return cut if roles.kind is dict else roles.kind(cut.values())
    if value is None:  # a mask that is missing
        return None
    if roles.role is Role.FOLDED:
        return value.unflatten(0, (count, -1))[rows].flatten(0, 1)
    return value[rows] if roles.role in _BY_ROW else value


_BY_ROW = (Role.ROWS, Role.PADDED, Role.MASK, Role.POSITIONS, Role.LISTED, Role.REPEATED)


def join_outputs(outputs: Sequence[Any], counts: Sequence[int], *, listed: bool) -> Any:
    """Join the outputs of parts with ``counts`` rows.

    ``listed``: the model takes and returns lists with one tensor per row. Raises ``CannotSplit``
    if they do not have one entry, or a fixed number, per row.
    """
    first = outputs[0]
    if any(type(output) is not type(first) for output in outputs):
        raise CannotSplit("the outputs of parts differ in their classes")
    if isinstance(first, torch.Tensor):
        return _joined_tensors(outputs, counts)
    if dataclasses.is_dataclass(first):
        names = [field.name for field in dataclasses.fields(first)]
        named = {name: [getattr(output, name) for output in outputs] for name in names}
        return type(first)(**{k: join_outputs(v, counts, listed=listed) for k, v in named.items()})
    if isinstance(first, Mapping):
        return {
            k: join_outputs([output[k] for output in outputs], counts, listed=listed) for k in first
        }
    if isinstance(first, list | tuple):
        if listed and [len(output) for output in outputs] == list(counts):
            return type(first)(row for output in outputs for row in output)
        zipped = zip(*outputs, strict=True)
        return type(first)(join_outputs(group, counts, listed=listed) for group in zipped)
    if first is None or (isinstance(first, _PLAIN) and all(output == first for output in outputs)):
        return first
    raise CannotSplit(f"the output holds a {type(first).__name__}")


def _joined_tensors(outputs: Sequence[torch.Tensor], counts: Sequence[int]) -> torch.Tensor:
    folds = {
        len(output) / rows if output.ndim else 0.0
        for output, rows in zip(outputs, counts, strict=True)
    }
    if len(folds) != 1 or not folds.pop().is_integer():
        raise CannotSplit(f"an output has the shape {tuple(outputs[0].shape)}")
    return torch.cat(list(outputs))


def rows_of(output: Any, rows: slice, count: int, *, listed: bool) -> Any:
    """Part of an output of ``count`` rows, as ``join_outputs`` takes it."""
    if isinstance(output, torch.Tensor):
        fold = len(output) // count
        return output[rows.start * fold : rows.stop * fold]
    if dataclasses.is_dataclass(output):
        names = [field.name for field in dataclasses.fields(output)]
        named = {name: getattr(output, name) for name in names}
        return type(output)(**rows_of(named, rows, count, listed=listed))
    if isinstance(output, Mapping):
        return {k: rows_of(item, rows, count, listed=listed) for k, item in output.items()}
    if isinstance(output, list | tuple):
        if listed and len(output) == count:
            return type(output)(output[rows])
        return type(output)(rows_of(item, rows, count, listed=listed) for item in output)
    return output


_PLAIN = (bool, int, float, str)
