"""Values that change while their owners hold them."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, Self


class LiveValues:
    """Base of dataclasses whose values follow the live settings. All owners share one object."""

    __slots__ = ()

    def become(self, other: Self) -> None:
        """Take all values of ``other``."""
        dataclass: Any = self  # as all subclasses
        for field in fields(dataclass):
            setattr(self, field.name, getattr(other, field.name))
