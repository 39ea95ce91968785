"""Verdicts on calls to fal: how a Darkroom would answer them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from jsonschema import Draft202012Validator, ValidationError

from serve_app.cli.migration.calls import (
    COMPUTED,
    ClientCall,
    ObjectLiteral,
    SourceLocation,
    Value,
    as_json,
)
from serve_app.cli.migration.endpoints import AvailableEndpoint, AvailableEndpoints

UNREPAIRABLE_KEYWORDS = frozenset(
    {"enum", "maximum", "minimum", "maxItems", "minItems", "maxLength", "minLength"}
)
"""JSON Schema keywords whose violation no conversion of the input can repair.

Other violations may be harmless: a number in quotes has the wrong type but is accepted.
"""

NO_EFFECT, NOT_SUPPORTED = "x-darkroom-no-effect", "x-darkroom-not-supported"
GRANTED = "x-darkroom-granted"
NO_FIELD = "The endpoint has no such field. It is ignored, with a warning in the request's log."


class CallVerdict(StrEnum):
    """Verdict on an endpoint or a field."""

    SERVED = "served"
    IGNORED = "ignored"  # accepted without effect
    REFUSED = "refused"  # answered with 422
    MISSING = "missing"  # does not exist
    UNREAD = "unread"  # cannot be determined from the code


FAILING = frozenset({CallVerdict.REFUSED, CallVerdict.MISSING})


@dataclass(frozen=True, slots=True)
class ReportItem:
    """Verdict on an endpoint or, with ``field``, on an input field. ``reason`` may be empty."""

    place: SourceLocation
    endpoint: str | None
    field: str | None
    fate: CallVerdict
    reason: str = ""


def findings(call: ClientCall, offer: AvailableEndpoints) -> Iterator[ReportItem]:
    """Findings on a call: the endpoint first, then its fields in the order of the code."""
    if call.endpoint is not None:
        offered = _find_endpoint(call, call.endpoint, offer)
        if offered is None:
            why = offer.not_found_message(call.endpoint)
            yield ReportItem(call.place, call.endpoint, None, CallVerdict.MISSING, why)
        else:
            fate = CallVerdict.MISSING if offered.missing else CallVerdict.SERVED
            yield ReportItem(call.place, offered.endpoint, None, fate, offered.missing)
            if call.input is not None:
                yield from _fields(call.place, offered, offered.schema, call.input)
    for why in call.unread:
        yield ReportItem(call.place, call.endpoint, None, CallVerdict.UNREAD, why)


def _find_endpoint(
    call: ClientCall, endpoint: str, offer: AvailableEndpoints
) -> AvailableEndpoint | None:
    """Endpoint that a call reaches, or None.

    fal's clients append ``/realtime`` themselves, and some endpoint ids end with it.
    """
    endpoint_id = endpoint.strip("/")
    available = offer.find(endpoint_id)
    return available or (offer.find(f"{endpoint_id}/realtime") if call.realtime else None)


def _fields(
    place: SourceLocation,
    offered: AvailableEndpoint,
    schema: Mapping[str, Any],
    literal: ObjectLiteral,
    within: str = "",
) -> Iterator[ReportItem]:
    properties: Mapping[str, Any] | None = schema.get("properties")
    for name, value in literal.fields.items():
        at = SourceLocation(place.file, literal.lines.get(name, place.line))
        field = f"{within}{name}"
        if not properties:  # The endpoint accepts any object.
            yield ReportItem(at, offered.endpoint, field, CallVerdict.SERVED)
        elif name not in properties:
            yield ReportItem(at, offered.endpoint, field, CallVerdict.MISSING, NO_FIELD)
        else:
            yield _field(at, offered, field, properties[name], value)
            yield from _items(at, offered, field, properties[name], value)
    for name in schema.get("required", ()):
        if literal.complete and name not in literal.fields:
            why = "The field is required but not sent."
            yield ReportItem(place, offered.endpoint, f"{within}{name}", CallVerdict.REFUSED, why)


def _items(
    at: SourceLocation,
    offered: AvailableEndpoint,
    field: str,
    schema: Mapping[str, Any],
    value: Value,
) -> Iterator[ReportItem]:
    """Findings on the fields of a list's objects, such as LoRAs.

    Served fields are left out, because the finding on the list itself covers them.
    """
    items = offered.resolve(schema.get("items", {}))
    if not isinstance(value, list) or "properties" not in items:
        return
    for number, item in enumerate(value):
        if isinstance(item, ObjectLiteral):
            inside = _fields(at, offered, items, item, f"{field}.{number}.")
            yield from (finding for finding in inside if finding.fate is not CallVerdict.SERVED)


def _field(
    at: SourceLocation,
    offered: AvailableEndpoint,
    field: str,
    schema: Mapping[str, Any],
    value: Value,
) -> ReportItem:
    read = as_json(value)
    description = str(schema.get("description", ""))
    granted = read is not COMPUTED and read in schema.get(GRANTED, ())
    fate, why = CallVerdict.SERVED, ""
    if schema.get(NO_EFFECT) and not granted:
        fate, why = CallVerdict.IGNORED, f"Has no effect{_after(description, 'Has no effect')}"
    elif schema.get(NOT_SUPPORTED) and not granted and read is COMPUTED:
        fate, why = CallVerdict.UNREAD, f"Refused{_after(description, 'Refused')}"
    elif schema.get(NOT_SUPPORTED) and not granted and bool(read):
        fate, why = CallVerdict.REFUSED, f"Refused{_after(description, 'Refused')}"
    if read is not COMPUTED and read is not None:
        wrong = _wrong(offered, schema, read)
        fate, why = (CallVerdict.REFUSED, wrong) if wrong else (fate, why)
    return ReportItem(at, offered.endpoint, field, fate, why)


def _after(description: str, words: str) -> str:
    return description.rpartition(words)[2]


def _wrong(offered: AvailableEndpoint, schema: Mapping[str, Any], value: Any) -> str:
    """Reason why ``value`` is invalid after any conversion; empty if a conversion may help."""
    validator = Draft202012Validator({**offered.document, **_without_lists(schema)})
    for error in validator.iter_errors(value):
        decisive = _decisive(error)
        if decisive is not None:
            return f"{decisive.message}."
    return ""


def _decisive(error: ValidationError) -> ValidationError | None:
    """Violation that no conversion can repair: the error itself, or one in its ``anyOf``."""
    if error.validator in UNREPAIRABLE_KEYWORDS:
        return error
    return next(
        (
            violation
            for violation in error.context or ()
            if violation.validator in UNREPAIRABLE_KEYWORDS
        ),
        None,
    )


def _without_lists(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """Schema without ``items``: lists of objects are checked field by field, with line numbers."""
    return {name: inner for name, inner in schema.items() if name != "items"}


def json_report(report_items: Sequence[ReportItem], where: str) -> dict[str, object]:
    """Report as a JSON document."""
    return {
        "against": where,
        "counts": count_verdicts(report_items),
        "findings": [
            {
                "file": finding.place.file,
                "line": finding.place.line or None,
                "endpoint": finding.endpoint,
                "field": finding.field,
                "verdict": finding.fate.value,
                "reason": finding.reason or None,
            }
            for finding in report_items
        ],
    }


def text_report(report_items: Sequence[ReportItem], where: str) -> Iterator[str]:
    """Report as text. Served fields get no line of their own."""
    for finding in report_items:
        if finding.field is not None and finding.fate is CallVerdict.SERVED:
            continue
        about = f"{finding.endpoint or 'a call'}{f', {finding.field}' if finding.field else ''}"
        why = f": {finding.reason}" if finding.reason else ""
        yield f"{finding.place}: {finding.fate.value:<7}  {about}{why}"
    if not report_items:
        yield "No calls to fal's clients found."
    counts = ", ".join(
        f"{count} {fate}" for fate, count in count_verdicts(report_items).items() if count
    )
    if counts:
        yield f"{counts}, checked against {where}."


def count_verdicts(report_items: Sequence[ReportItem]) -> dict[str, int]:
    counts = Counter(finding.fate for finding in report_items)
    return {fate.value: counts[fate] for fate in CallVerdict}
