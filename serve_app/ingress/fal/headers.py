"""The request headers of fal's clients: which are honoured, which are not, which are refused."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from starlette.requests import Request as HttpRequest

from serve_app.domain.errors import FieldProblem, Forbidden, InvalidInput
from serve_app.domain.request import Priority
from serve_app.domain.retries import Cause
from serve_app.ingress.fal import lifecycle, retry_headers
from serve_app.tenants.keys import ADMIN, Identity
from serve_app.tenants.keys import PRIORITY as PRIORITY_SCOPE

TIMEOUT, PRIORITY = b"x-fal-request-timeout", b"x-fal-queue-priority"
DETERMINISTIC, DEADLINE = b"x-darkroom-deterministic", b"x-darkroom-deadline"
IDEMPOTENCY_KEY, CACHE = b"idempotency-key", b"x-darkroom-cache"
PREVIEW, STORE_IO = b"x-darkroom-preview", b"x-fal-store-io"
LIFECYCLES = {name.lower().encode(): name for name in lifecycle.NAMES}
OWN = frozenset({DETERMINISTIC, DEADLINE, IDEMPOTENCY_KEY, CACHE, PREVIEW})

NO_EFFECT: Mapping[bytes, str] = {
    b"x-fal-runner-hint": "the replica with a free slot that asks first takes the request",
    b"x-fal-tags": "tags are not kept",
    b"x-app-fal-disable-fallback": "there is no fallback to other providers",
    b"x-app-fal-upload-policy": "artifacts go to this installation's storage",
    b"x-app-fal-can-disable-filter": "there is no filter",
    b"x-fal-cdn-token": "artifacts need no token",
}
"""Known and ignored; each is told in the request's own log, with the reason."""

SILENT = frozenset({TIMEOUT, PRIORITY, STORE_IO, *retry_headers.NAMES, b"x-fal-target-url"})
"""Honoured, or of no concern to the request."""

NAMES = OWN | SILENT | NO_EFFECT.keys() | LIFECYCLES.keys()
"""All that are known."""

MAX_TIMEOUT_S = 30 * 86400.0
MAX_IDEMPOTENCY_KEY = 255


@dataclass(frozen=True, slots=True)
class Wishes:
    """What a client asked for besides its input."""

    priority: Priority = Priority.NORMAL
    start_within_s: float | None = None
    end_within_s: float | None = None
    deterministic: bool = False
    idempotency_key: str | None = None
    cache: bool | None = None  # whether outcomes may be shared; None: as the endpoint says
    previews: bool = True
    retries: Mapping[Cause, int] | None = None  # None: by the installation's rule
    warnings: tuple[str, ...] = ()
    store_io: bool = True  # False: input and outcome are to be forgotten
    keep_files_s: float | None = None  # from the end; None: as long as the request


_NONE = Wishes()


def wishes_of(request: HttpRequest, identity: Identity) -> Wishes:
    """One pass over the headers. ``Forbidden`` or ``InvalidInput`` name theirs."""
    found = [
        (name, value)
        for name, value in request.scope["headers"]
        if name.startswith((b"x-fal-", b"x-app-fal-")) or name in OWN
    ]
    if not found:
        return _NONE
    wishes: dict[str, Any] = {}
    warnings: list[str] = []
    retry: dict[bytes, bytes] = {}
    for name, value in found:
        if (reader := _READERS.get(name)) is not None:
            field, read = reader
            wishes[field] = read(value)
        elif name == PRIORITY:
            wishes["priority"] = _priority(value, identity)
        elif name == IDEMPOTENCY_KEY:
            before = wishes.get("idempotency_key")
            wishes["idempotency_key"] = _idempotency_key(value, before)
        elif name in retry_headers.NAMES:
            retry[name] = value
        elif name in LIFECYCLES:
            wished = lifecycle.parsed(LIFECYCLES[name], value.decode("latin-1"))
            wishes["keep_files_s"] = wished.expiration_duration_seconds
            if wished.restricted:
                warnings.append(f"{LIFECYCLES[name]}: {lifecycle.OPEN_TO_ALL}.")
        elif name not in SILENT:
            reason = NO_EFFECT.get(name, "it is not known here")
            warnings.append(f"The header {name.decode('latin-1')} has no effect: {reason}.")
    retries = retry_headers.retries_wished(retry)
    return Wishes(**wishes, retries=retries, warnings=tuple(warnings))


def _priority(value: bytes, identity: Identity) -> Priority:
    match value.strip().lower():
        case b"low":
            return Priority.LOW
        case b"normal":
            return Priority.NORMAL
        case b"high" if identity.scopes & {ADMIN, PRIORITY_SCOPE}:
            return Priority.HIGH
        case b"high":
            raise Forbidden(
                f"X-Fal-Queue-Priority `high` takes a key with the scope `{PRIORITY_SCOPE}` or "
                f"`{ADMIN}`."
            )
        case _:
            raise _invalid("X-Fal-Queue-Priority", "should be `low` or `normal`", value)


def _seconds(name: str, value: bytes) -> float:
    try:
        seconds = float(value)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds <= MAX_TIMEOUT_S:
        raise _invalid(name, "should be seconds, more than 0 and at most 30 days", value)
    return seconds


def _idempotency_key(value: bytes, before: str | None) -> str:
    key = value.decode("latin-1").strip()
    if not (0 < len(key) <= MAX_IDEMPOTENCY_KEY and key.isascii() and key.isprintable()):
        what = f"should be 1 to {MAX_IDEMPOTENCY_KEY} printable ASCII characters"
        raise _invalid("Idempotency-Key", what, value)
    if before is not None:
        raise _invalid("Idempotency-Key", "should be sent once", value)
    return key


def _cache(value: bytes) -> bool:
    match value.strip().lower():
        case b"allow":
            return True
        case b"no":
            return False
        case _:
            raise _invalid("X-Darkroom-Cache", "should be `allow` or `no`", value)


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


_READERS: Mapping[bytes, tuple[str, Callable[[bytes], object]]] = {
    TIMEOUT: ("start_within_s", partial(_seconds, "X-Fal-Request-Timeout")),
    DEADLINE: ("end_within_s", partial(_seconds, "X-Darkroom-Deadline")),
    DETERMINISTIC: ("deterministic", partial(_flag, "X-Darkroom-Deterministic")),
    CACHE: ("cache", _cache),
    PREVIEW: ("previews", partial(_flag, "X-Darkroom-Preview")),
    STORE_IO: ("store_io", partial(_flag, "X-Fal-Store-IO")),
}
"""Header → field of ``Wishes``, and how its value is read."""
