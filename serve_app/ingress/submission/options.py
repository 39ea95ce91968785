"""Options of a submit, from request headers that are applied, ignored, or refused."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, cast

from starlette.requests import Request as HttpRequest

from serve_app.domain.errors import FieldProblem, Forbidden, InvalidInput
from serve_app.domain.media.upload_policy import UPLOAD_POLICY_HEADER, UploadPolicy
from serve_app.domain.request import Cause, Priority
from serve_app.domain.webhook import Webhook
from serve_app.ingress.http.context import trace_of
from serve_app.ingress.services.file_access import AccessRules
from serve_app.ingress.submission.lifecycle import LIFECYCLE_HEADERS, parse_lifecycle
from serve_app.ingress.submission.max_cost import MaxCost, parse_max_cost
from serve_app.ingress.submission.upload_policy import parse_upload_policy, policy_error
from serve_app.tenants.scopes import ADMIN, Caller
from serve_app.tenants.scopes import PRIORITY as PRIORITY_SCOPE

# fal's headers about retries of a failed request.

NO_RETRY, RETRY_CONFIG = b"x-fal-no-retry", b"x-fal-retry-config"
RETRY_HEADERS = frozenset({NO_RETRY, RETRY_CONFIG})

YES, NO = (b"1", b"true"), (b"0", b"false")

MODEL_CHARACTERS = 300
"""Longest name of a model that is kept as a call named it: twice 100 and a digest at Replicate."""

SHAPE = 'should be like {"server_error": {"retries": 2}}'


def parse_retries(headers: Mapping[bytes, bytes]) -> Mapping[Cause, int] | None:
    """Retries by cause, from the headers of these names; None if they set nothing.

    ``X-Fal-No-Retry`` has precedence. ``InvalidInput`` names the header that is wrong.
    """
    config = _config(headers[RETRY_CONFIG]) if RETRY_CONFIG in headers else None
    no_retry = headers.get(NO_RETRY, b"no")
    if _yes_no("X-Fal-No-Retry", (*YES, b"yes"), (*NO, b"no"), no_retry):
        return dict.fromkeys(Cause, 0)
    return config


def _config(value: bytes) -> Mapping[Cause, int]:
    try:
        parsed: Any = json.loads(value)
    except (ValueError, RecursionError):  # for thousands of brackets
        raise _invalid_header("X-Fal-Retry-Config", f"is not JSON: it {SHAPE}", value) from None
    if not isinstance(parsed, dict):
        raise _invalid_header("X-Fal-Retry-Config", SHAPE, value)
    retries: dict[Cause, int] = {}
    for name, inner in cast("dict[str, Any]", parsed).items():
        if name not in set(Cause):
            known = ", ".join(f"`{cause}`" for cause in Cause)
            what = f"names {name[:50]!r}, which is not one of {known}"
            raise _invalid_header("X-Fal-Retry-Config", what, value)
        retries[Cause(name)] = _count(name, inner, value)
    return retries


def _count(name: str, inner: Any, value: bytes) -> int:
    fields = cast("dict[str, Any]", inner) if isinstance(inner, dict) else {}
    count = fields.get("retries")
    whole = isinstance(count, int) and not isinstance(count, bool)
    if not whole or count < 0 or fields.keys() != {"retries"}:
        what = f"should have a whole number of `retries` for `{name}` and nothing else"
        raise _invalid_header("X-Fal-Retry-Config", what, value)
    return count


def _invalid_header(name: str, what: str, value: bytes) -> InvalidInput:
    shown = value[:100].decode("latin-1")
    problem = FieldProblem(("header", name), f"{name} {what}", "value_error", None, shown)
    return InvalidInput(f"The header {name} {what}.", (problem,))


TIMEOUT, PRIORITY = b"x-fal-request-timeout", b"x-fal-queue-priority"
DETERMINISTIC, DEADLINE = b"x-darkroom-deterministic", b"x-darkroom-deadline"
IDEMPOTENCY_KEY, CACHE = b"idempotency-key", b"x-darkroom-cache"
PREVIEW, STORE_IO = b"x-darkroom-preview", b"x-fal-store-io"
UPLOAD_POLICY = UPLOAD_POLICY_HEADER.lower().encode()
LIFECYCLES = {name.lower().encode(): name for name in LIFECYCLE_HEADERS}
MAX_COST, NO_FALLBACK = b"x-darkroom-max-cost", b"x-app-fal-disable-fallback"
DARKROOM_HEADERS = frozenset({DETERMINISTIC, DEADLINE, IDEMPOTENCY_KEY, CACHE, PREVIEW, MAX_COST})

NO_EFFECT: Mapping[bytes, str] = {
    b"x-fal-runner-hint": "the first replica with a free slot takes the request",
    b"x-fal-tags": "tags are not stored",
    b"x-app-fal-can-disable-filter": "there is no filter",
    b"x-fal-cdn-token": "artifacts need no token",
}
"""Headers that are known and ignored, with the reason. The request's log has a warning for each."""

ACCEPTED_SILENTLY = frozenset(
    {TIMEOUT, PRIORITY, STORE_IO, UPLOAD_POLICY, NO_FALLBACK, *RETRY_HEADERS, b"x-fal-target-url"}
)
"""Headers that are applied, or that do not concern the request. They cause no warning."""

HEADERS = DARKROOM_HEADERS | ACCEPTED_SILENTLY | NO_EFFECT.keys() | LIFECYCLES.keys()
"""Names of all known headers."""

KEPT = frozenset(
    {TIMEOUT, DEADLINE, DETERMINISTIC, CACHE, STORE_IO, NO_FALLBACK, *RETRY_HEADERS, *LIFECYCLES}
)
"""Headers of a call that hold for requests which are made later, such as lines of a batch."""

MAX_TIMEOUT_S = 30 * 86400.0
MAX_IDEMPOTENCY_KEY = 255


@dataclass(frozen=True, slots=True)
class SubmitOptions:
    """Options of a submit, apart from the input. Each protocol parses them once."""

    priority: Priority = Priority.NORMAL
    start_within_s: float | None = None
    end_within_s: float | None = None
    deterministic: bool = False
    idempotency_key: str | None = None
    repeat_digest: bytes = b""  # of a submit that repeats it; empty: of the endpoint and the body
    cache: bool | None = None  # may outcomes be shared? None: the endpoint's default
    previews: bool = True
    retries: Mapping[Cause, int] | None = None  # None: the installation's default
    warnings: tuple[str, ...] = ()
    store_io: bool = True  # False: input and outcome are deleted early
    keep_files_s: float | None = None  # after the end; None: as long as the request
    acl: AccessRules | None = None  # of its files; None: the tenant's default
    webhook: Webhook | None = None  # called at the end
    replay_key: str | None = None  # API key; finds an equal request whose response was lost
    trace: str = ""  # W3C trace context
    key_id: str = ""  # of the caller's API key
    upload_policy: UploadPolicy | None = None  # its files go to this bucket; None: to storage
    max_cost: MaxCost | None = None  # None: no limit
    no_fallback: bool = False  # it runs at its own endpoint, or fails
    no_shadow: bool = False  # it is never copied
    requested_model: str = ""  # see ``NewRequest.requested_model``

    def naming(self, model: str | None) -> SubmitOptions:
        """The options of a call that names ``model``, which is kept if it can be a name."""
        name = model or ""
        is_name = name.isprintable() and len(name) <= MODEL_CHARACTERS
        return replace(self, requested_model=name if is_name else "")


def parse_options(
    request: HttpRequest,
    caller: Caller,
    *,
    webhook: Webhook | None = None,
    replay_key: str | None = None,
    own_bucket: bool = False,
) -> SubmitOptions:
    """Read the options in one pass over the headers. ``webhook`` and ``replay_key`` are added.
    ``own_bucket``: files may go to a bucket of the client; else a client that asks for that is
    refused, because its files must not end up elsewhere.

    ``Forbidden`` and ``InvalidInput`` name the header.
    """
    pairs = [
        (name, value)
        for name, value in request.scope["headers"]
        if name.startswith((b"x-fal-", b"x-app-fal-")) or name in DARKROOM_HEADERS
    ]
    options = _header_options(pairs, caller) if pairs else {}
    if "upload_policy" in options and not own_bucket:
        raise policy_error(
            "works with fal's protocol only: in responses of this one, files are here"
        )
    if "idempotency_key" in options:
        replay_key = None  # the client's own key identifies a repeat more reliably
    return SubmitOptions(
        **options,
        webhook=webhook,
        replay_key=replay_key,
        trace=trace_of(request),
        key_id=caller.key_id,
    )


def kept_headers(request: HttpRequest) -> Mapping[str, str]:
    """Headers to store with what makes requests later. ``options_of`` reads them."""
    pairs: Iterable[tuple[bytes, bytes]] = request.scope["headers"]
    return {name.decode(): value.decode("latin-1") for name, value in pairs if name in KEPT}


def options_of(headers: Mapping[str, str], caller: Caller) -> SubmitOptions:
    """Options of stored headers."""
    pairs = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
    return SubmitOptions(**_header_options(pairs, caller), key_id=caller.key_id)


def _header_options(headers: Iterable[tuple[bytes, bytes]], caller: Caller) -> dict[str, Any]:
    options: dict[str, Any] = {}
    warnings: list[str] = []
    retry: dict[bytes, bytes] = {}
    for name, value in headers:
        if (reader := _READERS.get(name)) is not None:
            field, read = reader
            options[field] = read(value)
        elif name == PRIORITY:
            options["priority"] = _priority(value, caller)
        elif name == IDEMPOTENCY_KEY:
            before = options.get("idempotency_key")
            options["idempotency_key"] = _idempotency_key(value, before)
        elif name in RETRY_HEADERS:
            retry[name] = value
        elif name in LIFECYCLES:
            lifecycle = parse_lifecycle(LIFECYCLES[name], value.decode("latin-1"))
            options["keep_files_s"] = lifecycle.expiration_duration_seconds
            options["acl"] = lifecycle.access
        elif name not in ACCEPTED_SILENTLY:
            reason = NO_EFFECT.get(name, "it is not known")
            warnings.append(f"The header {name.decode('latin-1')} has no effect: {reason}.")
    return {**options, "retries": parse_retries(retry), "warnings": tuple(warnings)}


def _priority(value: bytes, caller: Caller) -> Priority:
    match value.strip().lower():
        case b"low":
            return Priority.LOW
        case b"normal":
            return Priority.NORMAL
        case b"high" if caller.may(PRIORITY_SCOPE):
            return Priority.HIGH
        case b"high":
            raise Forbidden(
                f"X-Fal-Queue-Priority `high` requires a key with the scope `{PRIORITY_SCOPE}` or "
                f"`{ADMIN}`."
            )
        case _:
            raise _invalid_header("X-Fal-Queue-Priority", "should be `low` or `normal`", value)


def _seconds(name: str, value: bytes) -> float:
    try:
        seconds = float(value)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds <= MAX_TIMEOUT_S:
        raise _invalid_header(name, "should be seconds, more than 0 and at most 30 days", value)
    return seconds


def _idempotency_key(value: bytes, before: str | None) -> str:
    key = value.decode("latin-1").strip()
    if not (0 < len(key) <= MAX_IDEMPOTENCY_KEY and key.isascii() and key.isprintable()):
        what = f"should be 1 to {MAX_IDEMPOTENCY_KEY} printable ASCII characters"
        raise _invalid_header("Idempotency-Key", what, value)
    if before is not None:
        raise _invalid_header("Idempotency-Key", "should be sent once", value)
    return key


def _no_fallback(value: bytes) -> bool:
    """Any value but these disables it, as it always was accepted."""
    return value.strip().lower() not in (b"", b"0", b"false", b"no")


def _yes_no(name: str, yes: Sequence[bytes], no: Sequence[bytes], value: bytes) -> bool:
    word = value.strip().lower()
    if word not in (*yes, *no):
        should = f"should be `{yes[0].decode()}` or `{no[0].decode()}`"
        raise _invalid_header(name, should, value)
    return word in yes


_READERS: Mapping[bytes, tuple[str, Callable[[bytes], object]]] = {
    TIMEOUT: ("start_within_s", partial(_seconds, "X-Fal-Request-Timeout")),
    DEADLINE: ("end_within_s", partial(_seconds, "X-Darkroom-Deadline")),
    DETERMINISTIC: ("deterministic", partial(_yes_no, "X-Darkroom-Deterministic", YES, NO)),
    CACHE: ("cache", partial(_yes_no, "X-Darkroom-Cache", [b"allow"], [b"no"])),
    PREVIEW: ("previews", partial(_yes_no, "X-Darkroom-Preview", YES, NO)),
    STORE_IO: ("store_io", partial(_yes_no, "X-Fal-Store-IO", YES, NO)),
    UPLOAD_POLICY: ("upload_policy", parse_upload_policy),
    MAX_COST: ("max_cost", parse_max_cost),
    NO_FALLBACK: ("no_fallback", _no_fallback),
}
"""Header → field of ``SubmitOptions``, and the function that reads the value."""
