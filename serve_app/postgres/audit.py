"""Rows of the audit log, each written by the statement of the act that it records."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, LiteralString

from serve_app.domain.audit.acts import Actor


def insert_audit(
    subject: LiteralString, rows: LiteralString, detail: LiteralString = "%(detail)s::json"
) -> LiteralString:
    """INSERT of one audit row for each row of ``rows``; of none without an actor.

    ``subject`` and ``detail`` are SQL and may name columns of ``rows``. The values are the
    parameters of ``audit_params``.
    """
    return f"""INSERT INTO audit (actor, address, action, subject, detail)
    SELECT %(actor)s, %(address)s, %(action)s, {subject}, {detail} FROM {rows}
    WHERE %(actor)s::text IS NOT NULL"""


def audit_params(actor: Actor | None, action: str, /, **detail: Any) -> Mapping[str, str | None]:
    """Parameters of a statement with ``insert_audit``. ``detail`` is stored as JSON."""
    return {
        "actor": None if actor is None else actor.key_id,
        "address": "" if actor is None else actor.address,
        "action": action,
        "detail": json.dumps(detail) if detail else None,
    }
