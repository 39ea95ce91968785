"""W3C trace contexts, as clients send them and as they are passed on."""

from __future__ import annotations

import pytest

from serve_app.domain.lease import LeaseKey
from serve_app.telemetry.trace_context import (
    from_headers,
    ids_of,
    is_sampled,
    of_attempt,
    to_headers,
)

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PARENT = f"00-{TRACE}-{SPAN}-01"


def parse_headers(*headers: tuple[str, str]) -> str:
    return from_headers([(name.encode(), value.encode("latin-1")) for name, value in headers])


def test_a_context_is_passed_on_as_it_came() -> None:
    trace = parse_headers(("traceparent", PARENT), ("tracestate", "a=1"), ("tracestate", "b=2"))
    assert to_headers(trace) == {"traceparent": PARENT, "tracestate": "a=1,b=2"}
    assert (ids_of(trace), is_sampled(trace)) == ((TRACE, SPAN), True)


def test_a_call_without_a_context_passes_none_on() -> None:
    assert parse_headers(("accept", "*/*"), ("tracestate", "a=1")) == ""
    assert to_headers("") == {}
    assert not is_sampled("")


@pytest.mark.parametrize(
    "value",
    [
        "",
        "nonsense",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"{PARENT}-more",
        f"00-{TRACE}-{SPAN}-0\xb2",
    ],
)
def test_a_context_that_is_not_valid_is_ignored(value: str) -> None:
    assert parse_headers(("traceparent", value)) == ""


def test_two_contexts_are_ignored() -> None:
    assert parse_headers(("traceparent", PARENT), ("traceparent", PARENT)) == ""


def test_a_newer_version_is_read_as_far_as_it_is_known() -> None:
    assert parse_headers(("traceparent", f"01-{TRACE}-{SPAN}-ff-more")) == f"00-{TRACE}-{SPAN}-03"


@pytest.mark.parametrize("state", ["a=1\x01", "ä=1", "a" * 513])
def test_a_state_that_cannot_be_passed_on_is_dropped(state: str) -> None:
    assert parse_headers(("traceparent", PARENT), ("tracestate", state)) == PARENT


def test_each_lease_has_a_span_of_its_own_in_the_same_trace() -> None:
    leases = [LeaseKey("id", 1, 5), LeaseKey("id", 2, 5), LeaseKey("id", 1, 6)]
    traces = [of_attempt(f"{PARENT} a=1", lease_key) for lease_key in leases]
    assert {ids_of(trace)[0] for trace in traces} == {TRACE}
    assert len({ids_of(trace)[1] for trace in traces} | {SPAN}) == 4
    assert of_attempt(f"{PARENT} a=1", leases[0]) == traces[0]
    assert all(to_headers(trace)["tracestate"] == "a=1" for trace in traces)
