"""Limit of how much JSON an input or output is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

MAX_VALUES = 250_000
"""Values in a body of JSON. Python's parser and encoder cannot be interrupted, also in a thread,
and take up to 0.9 µs for each: with a million, an ingress answered no one for a second at a time,
and a replica lost its leases. Prose of 16 MiB has fewer commas."""


@dataclass(slots=True)
class JsonRoom:
    """Room for values that are made of parts of others. One part may be in a value a thousand
    times, so that it is small in memory and has gigabytes as text."""

    bytes: int
    values: int = MAX_VALUES

    def take(self, value: Any) -> bool:
        """Take the room of a value. False: there is not enough, and what is left has no meaning.
        Takes no longer than the room is large. Escapes of characters are not counted."""
        stack = [value]
        while stack:
            item = stack.pop()
            self.values -= 1
            if isinstance(item, str):
                self.bytes -= len(item) + 2
            elif isinstance(item, int):  # about its digits
                self.bytes -= item.bit_length() // 4 + 1
            elif isinstance(item, Mapping):
                fields = cast("Mapping[str, Any]", item)
                if len(fields) > self.values:  # before their names are counted
                    return False
                self.bytes -= 2 + 4 * len(fields) + sum(map(len, fields))
                stack += fields.values()
            elif isinstance(item, (list, tuple)):
                items = cast("list[Any]", item)
                self.bytes -= 2 + len(items)
                if self.bytes < 0 or len(items) > self.values:  # before they are copied
                    return False
                stack += items
            else:
                self.bytes -= 1
            if self.bytes < 0 or self.values < 0:
                return False
        return True
