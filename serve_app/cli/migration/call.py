"""A call of fal's clients, as it is written in somebody's code."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TypeAlias


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """Line 0: the file as a whole, or no file at all."""

    file: str
    line: int = 0

    def __str__(self) -> str:
        return f"{self.file}:{self.line}" if self.line else self.file


class Computed(Enum):
    """A value that only running the code would tell."""

    COMPUTED = "computed"


COMPUTED = Computed.COMPUTED


@dataclass(slots=True)
class Object:
    """An object with the fields that can be read. ``whole``: it has no others."""

    fields: dict[str, Value] = field(default_factory=dict)
    lines: dict[str, int] = field(default_factory=dict)
    whole: bool = True

    def put(self, name: str, value: Value, line: int) -> None:
        self.fields[name] = value
        self.lines[name] = line

    def merge(self, other: Value) -> None:
        """What ``**other`` or ``...other`` in it adds."""
        if isinstance(other, Object):
            self.fields |= other.fields
            self.lines |= other.lines
            self.whole = self.whole and other.whole
        else:
            self.whole = False

    def plain(self) -> dict[str, object] | Computed:
        """As JSON has it; computed, if anything in it is."""
        if not self.whole:
            return COMPUTED
        values = {name: plain(value) for name, value in self.fields.items()}
        return COMPUTED if COMPUTED in values.values() else values


Value: TypeAlias = "bool | int | float | str | list[Value] | Object | Computed | None"


def plain(value: Value) -> object:
    """As JSON has it; ``COMPUTED``, if anything in it is."""
    if isinstance(value, Object):
        return value.plain()
    if isinstance(value, list):
        items = [plain(each) for each in value]
        return COMPUTED if COMPUTED in items else items
    return value


@dataclass(frozen=True, slots=True)
class Call:
    """``endpoint`` and ``input`` are what was read; ``unread`` says in sentences what was not."""

    place: Place
    endpoint: str | None  # None: computed
    input: Object | None  # None: nothing of it can be read, or it was not asked for
    realtime: bool = False
    unread: tuple[str, ...] = ()


ENDPOINT_COMPUTED = (
    "The endpoint's id is computed or in another file; `darkroom migrate check` takes ids too."
)
INPUT_COMPUTED = "The input is computed or stands in another file, so its fields are not known."
INPUT_OPEN = "The input may have more fields than are written here."
SESSION = "What a realtime session sends is not read."


def call(place: Place, endpoint: Value, given: Value, *, realtime: bool) -> Call:
    """Of an id and an input as they were read."""
    unread: list[str] = []
    if not isinstance(endpoint, str):
        unread.append(ENDPOINT_COMPUTED)
    if realtime:
        unread.append(SESSION)
    elif not isinstance(given, Object):
        unread.append(INPUT_COMPUTED)
    elif not given.whole:
        unread.append(INPUT_OPEN)
    return Call(
        place,
        endpoint if isinstance(endpoint, str) else None,
        given if isinstance(given, Object) and not realtime else None,
        realtime,
        tuple(unread),
    )
