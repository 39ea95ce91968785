"""What becomes of a call in somebody's code when it comes to a Darkroom."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from jsonschema import Draft202012Validator, ValidationError

from serve_app.cli.migration.call import COMPUTED, Call, Object, Place, Value, plain
from serve_app.cli.migration.offer import Offer, Offered

DECISIVE = frozenset(
    {"enum", "maximum", "minimum", "maxItems", "minItems", "maxLength", "minLength"}
)
"""Of what JSON Schema complains about, what no conversion of the input mends. A number in quotes,
for one, is not of the right type, and is taken all the same."""

NO_EFFECT, NOT_SUPPORTED = "x-darkroom-no-effect", "x-darkroom-not-supported"
GRANTED = "x-darkroom-granted"
NO_FIELD = "The endpoint has no such field; it is left out, with a warning in the request's log."


class Fate(StrEnum):
    SERVED = "served"
    IGNORED = "ignored"  # accepted without effect
    REFUSED = "refused"  # answered with 422
    MISSING = "missing"  # not there
    UNREAD = "unread"  # what cannot be told from the code


BAD = frozenset({Fate.REFUSED, Fate.MISSING})


@dataclass(frozen=True, slots=True)
class Finding:
    """About an endpoint, or with ``field`` about one of its input. ``why``: empty, or sentences."""

    place: Place
    endpoint: str | None
    field: str | None
    fate: Fate
    why: str = ""


def findings(call: Call, offer: Offer) -> Iterator[Finding]:
    """The endpoint first, then its fields in the order of the code."""
    if call.endpoint is not None:
        offered = _found(call, call.endpoint, offer)
        if offered is None:
            why = offer.stranger(call.endpoint)
            yield Finding(call.place, call.endpoint, None, Fate.MISSING, why)
        else:
            fate = Fate.MISSING if offered.missing else Fate.SERVED
            yield Finding(call.place, offered.endpoint, None, fate, offered.missing)
            if call.input is not None:
                yield from _fields(call.place, offered, offered.schema, call.input)
    for why in call.unread:
        yield Finding(call.place, call.endpoint, None, Fate.UNREAD, why)


def _found(call: Call, endpoint: str, offer: Offer) -> Offered | None:
    """fal's clients add ``/realtime`` themselves, and some ids end like that."""
    asked = endpoint.strip("/")
    found = offer.find(asked)
    return found or (offer.find(f"{asked}/realtime") if call.realtime else None)


def _fields(
    place: Place, offered: Offered, schema: Mapping[str, Any], given: Object, within: str = ""
) -> Iterator[Finding]:
    properties: Mapping[str, Any] | None = schema.get("properties")
    for name, value in given.fields.items():
        at = Place(place.file, given.lines.get(name, place.line))
        field = f"{within}{name}"
        if not properties:  # It takes any object.
            yield Finding(at, offered.endpoint, field, Fate.SERVED)
        elif name not in properties:
            yield Finding(at, offered.endpoint, field, Fate.MISSING, NO_FIELD)
        else:
            yield _field(at, offered, field, properties[name], value)
            yield from _items(at, offered, field, properties[name], value)
    for name in schema.get("required", ()):
        if given.whole and name not in given.fields:
            why = "It is required, and not sent."
            yield Finding(place, offered.endpoint, f"{within}{name}", Fate.REFUSED, why)


def _items(
    at: Place, offered: Offered, field: str, schema: Mapping[str, Any], value: Value
) -> Iterator[Finding]:
    """Of a list of objects, such as adapters, each object's fields; those that are served are
    told by the list itself."""
    items = offered.resolved(schema.get("items", {}))
    if not isinstance(value, list) or "properties" not in items:
        return
    for number, item in enumerate(value):
        if isinstance(item, Object):
            inside = _fields(at, offered, items, item, f"{field}.{number}.")
            yield from (each for each in inside if each.fate is not Fate.SERVED)


def _field(
    at: Place, offered: Offered, field: str, schema: Mapping[str, Any], value: Value
) -> Finding:
    read = plain(value)
    description = str(schema.get("description", ""))
    granted = read is not COMPUTED and read in schema.get(GRANTED, ())
    fate, why = Fate.SERVED, ""
    if schema.get(NO_EFFECT) and not granted:
        fate, why = Fate.IGNORED, f"Has no effect{_after(description, 'Has no effect')}"
    elif schema.get(NOT_SUPPORTED) and not granted and read is COMPUTED:
        fate, why = Fate.UNREAD, f"Refused{_after(description, 'Refused')}"
    elif schema.get(NOT_SUPPORTED) and not granted and bool(read):
        fate, why = Fate.REFUSED, f"Refused{_after(description, 'Refused')}"
    if read is not COMPUTED and read is not None:
        wrong = _wrong(offered, schema, read)
        fate, why = (Fate.REFUSED, wrong) if wrong else (fate, why)
    return Finding(at, offered.endpoint, field, fate, why)


def _after(description: str, words: str) -> str:
    return description.rpartition(words)[2]


def _wrong(offered: Offered, schema: Mapping[str, Any], value: Any) -> str:
    """Why no conversion would make ``value`` one that the endpoint takes; empty: one may."""
    validator = Draft202012Validator({**offered.document, **_without_lists(schema)})
    for error in validator.iter_errors(value):
        decisive = _decisive(error)
        if decisive is not None:
            return f"{decisive.message}."
    return ""


def _decisive(error: ValidationError) -> ValidationError | None:
    """Of an ``anyOf`` that nothing fits, an alternative that is wrong for good says why."""
    if error.validator in DECISIVE:
        return error
    return next((each for each in error.context or () if each.validator in DECISIVE), None)


def _without_lists(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """What is in lists of objects is looked at field by field, where a line can be named."""
    return {name: inner for name, inner in schema.items() if name != "items"}
