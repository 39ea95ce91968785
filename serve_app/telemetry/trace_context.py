"""W3C trace context: the trace that a request belongs to, and the span that continues in it.

It is one text, as it is stored with a request and sent with a lease: the value of ``traceparent``,
followed by a space and the value of ``tracestate`` if there is one. Empty: the request belongs to
no trace.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping

from serve_app.domain.lease import LeaseKey

TRACEPARENT, TRACESTATE = b"traceparent", b"tracestate"

MAX_TRACESTATE = 512
"""Characters. A longer value is dropped, as the specification allows."""

_SAMPLED = 0b01
_KNOWN_FLAGS = 0b11
_PARENT = re.compile(
    r"(?!ff)(?P<version>[0-9a-f]{2})-(?!0{32})(?P<trace>[0-9a-f]{32})-(?!0{16})(?P<span>[0-9a-f]{16})"
    r"-(?P<flags>[0-9a-f]{2})(?P<more>-.*)?",
    re.ASCII,
)


def from_headers(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """Trace context of a call. Empty if it has none, or one that is not valid."""
    parents: list[str] = []
    states: list[str] = []
    for name, value in headers:
        if name == TRACEPARENT:
            parents.append(value.decode("latin-1").strip())
        elif name == TRACESTATE:
            states.append(value.decode("latin-1").strip())
    match = _PARENT.fullmatch(parents[0]) if len(parents) == 1 else None
    if match is None or (match["version"] == "00" and match["more"]):
        return ""
    flags = int(match["flags"], 16) & _KNOWN_FLAGS
    return _append_state(
        f"00-{match['trace']}-{match['span']}-{flags:02x}", ",".join(filter(None, states))
    )


def _append_state(parent: str, state: str) -> str:
    kept = state and len(state) <= MAX_TRACESTATE and state.isascii() and state.isprintable()
    return f"{parent} {state}" if kept else parent


def to_headers(trace: str) -> Mapping[str, str]:
    """Headers of a call that continues in ``trace``."""
    parent, _, state = trace.partition(" ")
    return {"traceparent": parent, **({"tracestate": state} if state else {})} if parent else {}


def encoded_headers(trace: str) -> list[tuple[bytes, bytes]]:
    """``to_headers`` for ASGI."""
    return [(name.encode(), value.encode()) for name, value in to_headers(trace).items()]


def ids_of(trace: str) -> tuple[str, str]:
    """Trace id and span id, in hexadecimal digits, of a context that is not empty."""
    return trace[3:35], trace[36:52]


def state_of(trace: str) -> str:
    return trace.partition(" ")[2]


def is_sampled(trace: str) -> bool:
    """True if the spans of ``trace`` are recorded."""
    return bool(trace) and bool(int(trace[53:55], 16) & _SAMPLED)


def of_attempt(trace: str, lease_key: LeaseKey) -> str:
    """Context of an attempt's span, which is a child of ``trace``.

    Its span id is derived from the lease: a replica names it in its log lines, and the ingress
    gives it to the span, which a replica that died cannot report.
    """
    name = f"{lease_key.request_id}/{lease_key.attempt}/{lease_key.nonce}".encode()
    span = hashlib.sha256(name).hexdigest()[:16]
    return f"{trace[:36]}{span}{trace[52:]}"
