"""Every statement on a table with a tenant names the tenant, or stands below with its reason.

The database does not keep tenants apart by itself: one forgotten condition shows the requests of a
tenant to another. So all statements are parsed, and a new one without a condition on the tenant
fails here until it is given one, or a reason.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

import pytest
import sqlglot
from sqlglot import exp

import serve_app
from tests.isolation.redundant import stale

SCHEMA = Path(serve_app.__path__[0]) / "queue" / "schema"
OWNERS = ("tenant", "owner")
"""Columns that name a tenant."""

WITHOUT: Mapping[str, Mapping[str, str]] = {
    "Finds what is due, whoever's it is: no client calls it.": {
        "jobs.postgres": "HELD DUE TAKE RENEW FINISH RETRY GIVE_UP FORGET",
        "postgres.file_access": "REVOCATIONS FORGET",
        "queue.attempts.ending": "_NAMELESS _EXPIRED _OF_ACTORS _RUNNING _OUT_OF_TIME",
        "queue.audit_log": "UNSEALED SEAL CHAIN",
        "queue.batches.work": "ACTIVE FIND EXPIRE BEGIN REFUSE TAKE ENDED RUNNING _COUNT SETTLE "
        "DROP_WAITING FINALIZE FINISH FORGET_LINES",
        "queue.billing.replica_hours": "SAMPLE",
        "queue.drafts": "EXPIRE",
        "queue.fairness.fair_queue": "OPEN LOOK_FOR_DUE",
        "queue.fallback.moves": "LANES OUTSIDE",
        "queue.fallback.overflow": "READ",
        "queue.queue": "RUNNING_ON",
        "queue.reaper": "HOLDERS FORGET_PROGRESS",
        "queue.request_log": "FORGET_PARTIALS",
        "queue.retention": "DELETE_DELIVERIES",
        "queue.shadows.book": "CANDIDATES TAKE SENT FORGET_SKIPPED",
        "queue.state.demand": "READ",
        "queue.state.eta": "RUNNING",
        "queue.state.stats": "COUNT COUNT_LARGE COUNT_FOLLOWING",
        "queue.transactions.cancel": "_LATE _LATE_FOLLOWING ANY_LATE EXPIRE EXPIRE_FOLLOWING",
        "queue.transactions.deletion": "FREE_KEYS SEE_ENDS EXPIRE FORGET",
        "queue.transactions.garbage": "DUE",
        "queue.transactions.redaction": "INPUTS OUTCOMES FORGET_INPUTS FORGET_OUTCOMES",
        "queue.transactions.snapshots": "FORGET_ENDED",
        "queue.transactions.unwanted_files": "NEEDED",
        "queue.transactions.uploads": "TAKE FORGET",
        "queue.transactions.webhook_outbox": "KEEP_BODY SETTLE PUT_BACK GIVE_UP BACKLOG",
        "queue.workflows.runs": "STEPS ABANDONED CLOSE FORGET",
        "registry.postgres": "COLLECT",
    },
    "Called by the holder of a lease, whose id and nonce no client knows.": {
        "postgres.hosted_calls": "BEGIN ACCEPT END UNWANTED",
        "queue.heartbeat": "REPORT",
        "queue.long_poll": "CHECK_HELD",
        "queue.request_log": "APPEND",
        "queue.transactions.end_attempt": "CONFIRM ENDED_BY",
        "queue.transactions.lease": "IS_HELD",
        "queue.transactions.snapshots": "KEEP",
        "queue.transactions.usage": "COUNT",
    },
    "Whoever reads rows by id compares their tenant with the caller's (as `RequestCache` does), or "
    "has found the ids by their tenant.": {
        "queue.batches.batches": "WRITTEN_BY",
        "queue.gallery.search": "READ",
        "queue.request_log": "AFTER",
        "queue.shadows.book": "REQUESTS",
        "queue.state.request_cache": "READ",
        "queue.transactions.outcome_cache": "READ STORE",
        "queue.transactions.coalescing": "SHARE_OUTCOME",
    },
    "The token or id, of 128 random bits and more, is the credential.": {
        "postgres.file_access": "FIND",
        "queue.gallery.share_links": "SHARED",
        "queue.transactions.uploads": "FIND ADD_PART FINISH GIVE_UP",
        "tenants.key_ring": "TAKE_LINK",
    },
    "Keys are found by their id, which says the tenant. `ingress.api.keys` compares it.": {
        "tenants.key_ring": "REVOKE ROTATE OFFER_LINK USED INFO",
    },
    "For operators, who see and change what is any tenant's.": {
        "jobs.postgres": "BACKLOG FAILING RESTART_ONE",
        "queue.audit_log": "AUDIT TAIL",
        "queue.billing.replica_hours": "MADE",
        "queue.operations": "CURRENT PRIORITISE",
        "queue.overview": "LANES LEASES _OF_ALL",
        "queue.shadows.book": "PAGE PAGE_OF_ENDPOINT SUMS",
        "queue.store.stored_files": "SUMS UNWANTED",
        "queue.transactions.cancel": "FAIL",
        "queue.transactions.catalog_entries": "REMOVE",
    },
    "Says only that something has changed, or what all processes load.": {
        "queue.workflows.book": "VERSION ALL",
        "registry.postgres": "VERSION",
    },
    "A backup has all tenants.": {"backup.rows": "NAMED STILL_NAMED EXPECTED RUNNING"},
}
"""Statements without a condition on the tenant: reason → module of ``serve_app`` → names."""

UNREAD = {
    "postgres.comfyui": "_ROOM MERGE",
    "queue.batches.work": "ADD_LINES",
    "queue.request_log": "ADD_PARTIALS",
    "queue.workflows.runs": "TAKE",
    "tenants.tenants": "LIST",
}
"""Statements that sqlglot cannot parse, and parts of statements: read by eye."""

_STATEMENT = re.compile(r"\A\s*(?:--[^\n]*\n\s*)*(?:WITH|SELECT|UPDATE|INSERT|DELETE)\b")
_PLACE = re.compile(r"\{\w*\}")
_TEXT = re.compile(r"'[^']*'")
_TABLE = re.compile(r"^CREATE (?:UNLOGGED )?TABLE (\w+) \((.*?)^\)", re.M | re.S)


def tables_with_a_tenant(schema: str) -> frozenset[str]:
    return frozenset(
        match[1] for match in _TABLE.finditer(schema) if re.search(r"^\s+tenant\s", match[2], re.M)
    )


def modules() -> Iterator[str]:
    """Modules of the control plane that have statements; commands have none."""
    for module in pkgutil.walk_packages(serve_app.__path__, "serve_app."):
        if "__main__" not in module.name and not module.name.startswith("serve_app.cli"):
            yield module.name


@cache
def statements() -> Mapping[str, str]:
    """Statements by the name of their constant, each once. Templates, which have places in braces,
    are left out: what is made of them is here."""
    names: dict[str, str] = {}
    for module in modules():
        for name, value in vars(importlib.import_module(module)).items():
            is_statement = isinstance(value, str) and _STATEMENT.match(value) and len(value) > 14
            if is_statement and not _PLACE.search(_TEXT.sub("", value)):
                names.setdefault(value, f"{module.removeprefix('serve_app.')}.{name}")
    return {name: value for value, name in names.items()}


def parse_statement(statement: str) -> list[exp.Expression | None]:
    text = re.sub(r"%\((\w+)\)s", r":\1", statement).replace("%%", "%").replace("%s", ":given")
    return [*sqlglot.parse(text, read="postgres")]


def is_apart(statement: str, tables: frozenset[str]) -> bool:
    """Return whether a statement touches no table of tenants, or has a condition on the tenant."""
    touched = False
    for tree in filter(None, parse_statement(statement)):
        columns = (column for column in tree.find_all(exp.Column) if column.name in OWNERS)
        if any(column.find_ancestor(exp.Where, exp.Join) is not None for column in columns):
            return True
        joins = (join.args.get("using") or [] for join in tree.find_all(exp.Join))
        if any(column.name in OWNERS for using in joins for column in using):
            return True
        touched |= any(
            table.name in tables and not _is_new_row(table) for table in tree.find_all(exp.Table)
        )
    return not touched


def _is_new_row(table: exp.Table) -> bool:
    """Return whether it is the table of an INSERT: its rows have the tenant that they are given."""
    schema = table.parent if isinstance(table.parent, exp.Schema) else table
    return isinstance(schema.parent, exp.Insert) and schema.parent.this is schema


def qualified_names(kinds: Mapping[str, str]) -> set[str]:
    return {f"{module}.{name}" for module, names in kinds.items() for name in names.split()}


def test_every_statement_on_a_table_with_a_tenant_names_it_or_has_a_reason() -> None:
    tables = tables_with_a_tenant(
        "".join(path.read_text() for path in sorted(SCHEMA.glob("*.sql")))
    )
    assert {"requests", "uploads", "api_keys", "usage"} <= tables
    without: set[str] = set()
    unread: set[str] = set()
    words = re.compile(rf"\b(?:{'|'.join(tables)})\b")
    for name, statement in statements().items():
        if not words.search(statement):
            continue
        try:
            if not is_apart(statement, tables):
                without.add(name)
        except sqlglot.ParseError:
            unread.add(name)
    assert without == set[str]().union(*map(qualified_names, WITHOUT.values()))
    assert unread == qualified_names(UNREAD)


def test_every_condition_that_no_test_misses_is_there() -> None:
    """See `scripts/mutate_tenants`."""
    assert stale(statements().values()) == []


@pytest.mark.parametrize(
    ("statement", "apart"),
    [
        ("SELECT id FROM requests WHERE id = %(id)s", False),
        ("SELECT id FROM requests WHERE id = %(id)s AND tenant = %(tenant)s", True),
        ("SELECT tenant FROM requests", False),
        ("UPDATE uploads u SET size = 1 WHERE u.key = %s", False),
        ("DELETE FROM uploads USING favourites f WHERE f.tenant = %s", True),
        ("SELECT 1 FROM pools", True),
        ("INSERT INTO uploads (key, tenant) VALUES (%s, %s)", True),
        ("INSERT INTO usage (tenant) SELECT tenant FROM requests WHERE id = %s", False),
        ("WITH a AS (SELECT id FROM requests) SELECT 1 FROM a JOIN pools USING (id)", False),
    ],
)
def test_a_statement_is_apart_by_a_condition_only(statement: str, apart: bool) -> None:
    assert is_apart(statement, frozenset({"requests", "uploads", "usage", "favourites"})) is apart
