"""What fal's headers say of other attempts at a request that failed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, cast

from serve_app.domain.errors import FieldProblem, InvalidInput
from serve_app.domain.retries import Cause

NO_RETRY, RETRY_CONFIG = b"x-fal-no-retry", b"x-fal-retry-config"
NAMES = frozenset({NO_RETRY, RETRY_CONFIG})

SHAPE = 'should be like {"server_error": {"retries": 2}}'


def retries_wished(given: Mapping[bytes, bytes]) -> Mapping[Cause, int] | None:
    """From the headers of these names; None: they wish for nothing. ``X-Fal-No-Retry`` is the
    stronger. ``InvalidInput`` names the header that is wrong."""
    config = _config(given[RETRY_CONFIG]) if RETRY_CONFIG in given else None
    if NO_RETRY in given and _no_retry(given[NO_RETRY]):
        return dict.fromkeys(Cause, 0)
    return config


def _no_retry(value: bytes) -> bool:
    match value.strip().lower():
        case b"1" | b"true" | b"yes":
            return True
        case b"0" | b"false" | b"no":
            return False
        case _:
            raise _invalid("X-Fal-No-Retry", "should be `1`, `true` or `yes`", value)


def _config(value: bytes) -> Mapping[Cause, int]:
    try:
        parsed: Any = json.loads(value)
    except (ValueError, RecursionError):  # of thousands of brackets
        raise _invalid("X-Fal-Retry-Config", f"is not JSON: it {SHAPE}", value) from None
    if not isinstance(parsed, dict):
        raise _invalid("X-Fal-Retry-Config", SHAPE, value)
    wished: dict[Cause, int] = {}
    for name, inner in cast("dict[str, Any]", parsed).items():
        if name not in set(Cause):
            known = ", ".join(f"`{cause}`" for cause in Cause)
            what = f"names {name[:50]!r}, and what there is are {known}"
            raise _invalid("X-Fal-Retry-Config", what, value)
        wished[Cause(name)] = _count(name, inner, value)
    return wished


def _count(name: str, inner: Any, value: bytes) -> int:
    fields = cast("dict[str, Any]", inner) if isinstance(inner, dict) else {}
    count = fields.get("retries")
    whole = isinstance(count, int) and not isinstance(count, bool) and count >= 0
    if not whole or fields.keys() != {"retries"}:
        what = f"should have for `{name}` a whole number of `retries` and nothing else"
        raise _invalid("X-Fal-Retry-Config", what, value)
    return int(cast("int", count))


def _invalid(name: str, what: str, value: bytes) -> InvalidInput:
    shown = value[:100].decode("latin-1")
    problem = FieldProblem(("header", name), f"{name} {what}", "value_error", None, shown)
    return InvalidInput(f"The header {name} {what}.", (problem,))
