"""Headers of a call that creates a prediction: how long it waits, and how long the prediction may
take."""

from __future__ import annotations

import re
from collections.abc import Mapping

from serve_app.domain.errors import FieldProblem, InvalidInput
from serve_app.ingress.submission.options import MAX_TIMEOUT_S

MAX_WAIT_S = 60
MIN_CANCEL_AFTER_S = 5
"""Replicate's own limit."""

_WAIT = re.compile(r"wait(?:=(\d{1,4}))?")
_DURATION = re.compile(
    r"(?=\d)(?:(?P<h>\d{1,9})h)?(?:(?P<m>\d{1,9})m)?(?:(?P<s>\d{1,9})s?)?", re.ASCII
)


def wait_s(headers: Mapping[str, str]) -> int:
    """Seconds from the header ``Prefer``; 0 if it does not ask to wait. ``InvalidInput``."""
    for preference in headers.get("prefer", "").split(","):
        match = _WAIT.fullmatch(preference.strip().lower())
        if match is None:
            continue  # RFC 7240: unknown preferences are ignored
        seconds = int(match[1] or MAX_WAIT_S)
        if not 1 <= seconds <= MAX_WAIT_S:
            raise _invalid("Prefer", f"`wait` should be from 1 to {MAX_WAIT_S}", seconds)
        return seconds
    return 0


def cancel_after_s(headers: Mapping[str, str]) -> float | None:
    """Seconds from the header ``Cancel-After``, such as ``90``, ``30s`` or ``1h30m``; None without
    it. ``InvalidInput``."""
    header = headers.get("cancel-after")
    if header is None:
        return None
    match = _DURATION.fullmatch(header.strip().lower())
    parts = match.groupdict(default="0") if match else {"h": "0", "m": "0", "s": "0"}
    seconds = 3600 * int(parts["h"]) + 60 * int(parts["m"]) + int(parts["s"])
    if not MIN_CANCEL_AFTER_S <= seconds <= MAX_TIMEOUT_S:
        what = f"should be like 30s, 5m or 1h30m, from {MIN_CANCEL_AFTER_S} seconds to 30 days"
        raise _invalid("Cancel-After", what, header[:100])
    return float(seconds)


def _invalid(name: str, what: str, value: object) -> InvalidInput:
    problem = FieldProblem(("header", name), what, "value_error", None, value)
    return InvalidInput(f"The header {name}: {what}.", (problem,))
