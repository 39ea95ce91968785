"""The request headers of fal's clients: which are honoured, which are not, which are refused."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from starlette.requests import Request as HttpRequest

from serve_app.domain.errors import FieldProblem, Forbidden, InvalidInput, Unsupported
from serve_app.domain.request import Priority
from serve_app.tenants.keys import ADMIN, Identity

TIMEOUT, PRIORITY = b"x-fal-request-timeout", b"x-fal-queue-priority"
DETERMINISTIC = b"x-darkroom-deterministic"

NO_EFFECT: Mapping[bytes, str] = {
    b"x-fal-runner-hint": "the replica with a free slot that asks first takes the request",
    b"x-fal-object-lifecycle-preference": "artifacts are kept until they are deleted",
    b"x-fal-object-lifecycle": "artifacts are kept until they are deleted",
    b"x-fal-store-io": "inputs and outcomes are stored, because the queue is durable",
    b"x-fal-no-retry": "a request whose replica died is run again",
    b"x-fal-retry-config": "a request whose replica died is run again",
    b"x-fal-tags": "tags are not kept",
    b"x-app-fal-disable-fallback": "there is no fallback to other providers",
    b"x-app-fal-upload-policy": "artifacts go to this installation's storage",
    b"x-app-fal-can-disable-filter": "there is no filter",
    b"x-fal-cdn-token": "artifacts need no token",
}
"""Known and ignored; each is told in the request's own log, with the reason."""

SILENT = frozenset({TIMEOUT, PRIORITY, b"x-fal-target-url"})
"""Honoured, or of no concern to the request."""

REFUSED: Mapping[bytes, str] = {
    b"idempotency-key": "Idempotency-Key is not supported yet: send the request without it",
}
"""Ignoring these would break a promise that the client relies on."""

MAX_TIMEOUT_S = 30 * 86400.0


@dataclass(frozen=True, slots=True)
class Wishes:
    """What a client asked for besides its input."""

    priority: Priority = Priority.NORMAL
    start_within_s: float | None = None
    deterministic: bool = False
    warnings: tuple[str, ...] = ()


_NONE = Wishes()


def wishes_of(request: HttpRequest, identity: Identity) -> Wishes:
    """One pass over the headers. ``Unsupported``, ``Forbidden`` or ``InvalidInput`` name theirs."""
    found = [
        (name, value)
        for name, value in request.scope["headers"]
        if name.startswith((b"x-fal-", b"x-app-fal-")) or name in REFUSED or name == DETERMINISTIC
    ]
    if not found:
        return _NONE
    priority, start_within_s, deterministic = Priority.NORMAL, None, False
    warnings: list[str] = []
    for name, value in found:
        if name in REFUSED:
            raise Unsupported(f"{REFUSED[name]}.")
        if name == PRIORITY:
            priority = _priority(value, identity)
        elif name == TIMEOUT:
            start_within_s = _timeout(value)
        elif name == DETERMINISTIC:
            deterministic = _flag("X-Darkroom-Deterministic", value)
        elif name not in SILENT:
            reason = NO_EFFECT.get(name, "it is not known here")
            warnings.append(f"The header {name.decode('latin-1')} has no effect: {reason}.")
    return Wishes(priority, start_within_s, deterministic, tuple(warnings))


def _priority(value: bytes, identity: Identity) -> Priority:
    match value.strip().lower():
        case b"low":
            return Priority.LOW
        case b"normal":
            return Priority.NORMAL
        case b"high" if ADMIN in identity.scopes:
            return Priority.HIGH
        case b"high":
            raise Forbidden(f"X-Fal-Queue-Priority `high` takes a key with the scope `{ADMIN}`.")
        case _:
            raise _invalid("X-Fal-Queue-Priority", "should be `low` or `normal`", value)


def _timeout(value: bytes) -> float:
    try:
        seconds = float(value)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds <= MAX_TIMEOUT_S:
        raise _invalid("X-Fal-Request-Timeout", "should be seconds, more than 0", value)
    return seconds


def _flag(name: str, value: bytes) -> bool:
    match value.strip().lower():
        case b"1" | b"true":
            return True
        case b"0" | b"false":
            return False
        case _:
            raise _invalid(name, "should be `1` or `0`", value)


def _invalid(name: str, what: str, value: bytes) -> InvalidInput:
    shown = value[:100].decode("latin-1")
    problem = FieldProblem(("header", name), f"{name} {what}", "value_error", None, shown)
    return InvalidInput(f"The header {name} {what}.", (problem,))
