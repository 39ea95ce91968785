"""Conditions on the tenant in statements, and statements without one of them."""

from __future__ import annotations

import re
from collections.abc import Iterator

CONDITION = re.compile(
    r"(?<![\w.])(?:\w+\.)?(?:tenant|owner) (?:=|IS NOT DISTINCT FROM) "
    r"(?:ANY\(%\(\w+\)s[^()]*\)|%\(\w+\)s(?:::text)?)"
)
"""A condition with the tenant that is given. Those between tables are about one row's tenant."""

_ASSIGNED = re.compile(r"(?:\bSET|,)\s*\Z")


def without_one(statement: str) -> Iterator[str]:
    """The statement, once for each of its conditions on the tenant, with that one always true."""
    for condition in CONDITION.finditer(statement):
        before = statement[: condition.start()]
        if not _ASSIGNED.search(before):
            yield f"{before}true{statement[condition.end() :]}"
