"""What modules return: tensors in tuples, lists, dicts and the dataclasses of their libraries."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch


class CannotCopy(Exception):
    """There is something in it that is neither a tensor nor a plain value."""


def copied(output: Any) -> Any:
    """The same with tensors of its own."""
    if isinstance(output, torch.Tensor):
        return output.clone()
    if dataclasses.is_dataclass(output):
        fields = dataclasses.fields(output)
        return type(output)(**{each.name: copied(getattr(output, each.name)) for each in fields})
    if isinstance(output, Mapping):
        return type(output)({key: copied(each) for key, each in output.items()})  # pyright: ignore[reportCallIssue]
    if isinstance(output, list | tuple):
        return type(output)(copied(each) for each in output)
    if output is None or isinstance(output, bool | int | float | str):
        return output
    raise CannotCopy(type(output).__name__)
