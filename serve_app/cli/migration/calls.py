"""Types for a call of fal's clients that was found in a user's code."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TypeAlias


@dataclass(frozen=True, slots=True, order=True)
class SourceLocation:
    """Location in the source. Line 0 means the whole file, or no file at all."""

    file: str
    line: int = 0

    def __str__(self) -> str:
        return f"{self.file}:{self.line}" if self.line else self.file


class RuntimeValue(Enum):
    """Marker for a value that is known only when the code runs."""

    COMPUTED = "computed"


COMPUTED = RuntimeValue.COMPUTED


@dataclass(slots=True)
class ObjectLiteral:
    """Object with the fields that can be read from the code. ``complete``: it has no others."""

    fields: dict[str, Value] = field(default_factory=dict)
    lines: dict[str, int] = field(default_factory=dict)
    complete: bool = True

    def put(self, name: str, value: Value, line: int) -> None:
        self.fields[name] = value
        self.lines[name] = line

    def merge(self, other: Value) -> None:
        """Add the fields that ``**other`` or ``...other`` adds."""
        if isinstance(other, ObjectLiteral):
            self.fields |= other.fields
            self.lines |= other.lines
            self.complete = self.complete and other.complete
        else:
            self.complete = False

    def as_json(self) -> dict[str, object] | RuntimeValue:
        """JSON value of this object; ``COMPUTED`` if any part of it is computed."""
        if not self.complete:
            return COMPUTED
        values = {name: as_json(value) for name, value in self.fields.items()}
        return COMPUTED if COMPUTED in values.values() else values


Value: TypeAlias = "bool | int | float | str | list[Value] | ObjectLiteral | RuntimeValue | None"


def as_json(value: Value) -> object:
    """JSON value of ``value``; ``COMPUTED`` if any part of it is computed."""
    if isinstance(value, ObjectLiteral):
        return value.as_json()
    if isinstance(value, list):
        items = [as_json(item) for item in value]
        return COMPUTED if COMPUTED in items else items
    return value


@dataclass(frozen=True, slots=True)
class ClientCall:
    """Call of fal's client, as far as it can be read.

    ``unread`` lists, in sentences, what could not be read.
    """

    place: SourceLocation
    endpoint: str | None  # None: computed
    input: ObjectLiteral | None  # None: it cannot be read, or there is none to check
    realtime: bool = False
    unread: tuple[str, ...] = ()


ENDPOINT_COMPUTED = (
    "The endpoint id is computed or in another file. Pass the id to `darkroom migrate check`."
)
INPUT_COMPUTED = "The input is computed or in another file, so its fields are not known."
INPUT_INCOMPLETE = "The input may have more fields than those in the code."
REALTIME_NOT_CHECKED = "The messages of a realtime session are not checked."


def call(place: SourceLocation, endpoint: Value, arguments: Value, *, realtime: bool) -> ClientCall:
    """Create a ``ClientCall`` from an endpoint id and an input as they were read."""
    unread: list[str] = []
    if not isinstance(endpoint, str):
        unread.append(ENDPOINT_COMPUTED)
    if realtime:
        unread.append(REALTIME_NOT_CHECKED)
    elif not isinstance(arguments, ObjectLiteral):
        unread.append(INPUT_COMPUTED)
    elif not arguments.complete:
        unread.append(INPUT_INCOMPLETE)
    return ClientCall(
        place,
        endpoint if isinstance(endpoint, str) else None,
        arguments if isinstance(arguments, ObjectLiteral) and not realtime else None,
        realtime,
        tuple(unread),
    )
