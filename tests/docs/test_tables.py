"""The tables of the docs say what the code does."""

from __future__ import annotations

import re
from pathlib import Path

from prometheus_client import CollectorRegistry
from pydantic.fields import FieldInfo

from serve_app.cli.installation import Installation
from serve_app.domain.progress import Stage
from serve_app.ingress import health, page, platform
from serve_app.ingress.errors import TABLE
from serve_app.ingress.fal.headers import (
    LIFECYCLES,
    NO_EFFECT,
    OWN,
    PRIORITY,
    STORE_IO,
    TIMEOUT,
)
from serve_app.ingress.fal.retry_headers import NAMES as RETRIES
from serve_app.queue.embedded_files import Files
from serve_app.queue.limits import QueueLimits
from serve_app.queue.migrations import shipped
from serve_app.settings import PoolConfig
from serve_app.telemetry.metrics import Metrics
from tests.docs.pages import DOCS, code, inline, table

INGRESS = DOCS / "02-ingress-and-fal-protocol.md"
QUEUE = DOCS / "03-queue.md"
POOLS = DOCS / "06-pools-and-scaling.md"
OPERATION = DOCS / "08-operation.md"


def test_the_table_of_errors_is_the_one_that_answers() -> None:
    told = {
        code(error)[0]: (int(status), *code(type_), *code(own), again == "yes")
        for error, _, status, type_, own, again in table(INGRESS, "error")
    }
    assert told == {
        kind.__name__: (answer.status, answer.type, kind.code, kind.retryable)
        for kind, answer in TABLE.items()
    }


def test_ignored_headers_are_told_with_their_reasons() -> None:
    _, ignored = _header_tables()
    assert ignored == {header.decode(): reason for header, reason in NO_EFFECT.items()}


def test_honoured_headers_are_told() -> None:
    honoured, _ = _header_tables()
    headers = {each.decode() for each in (TIMEOUT, PRIORITY, STORE_IO, *LIFECYCLES, *RETRIES, *OWN)}
    assert honoured.keys() == {"authorization"} | headers


def _header_tables() -> list[dict[str, str]]:
    """Both have the same first heading."""
    parts = INGRESS.read_text().split("\n| header |")[1:]
    tables: list[dict[str, str]] = []
    for part in parts:
        rows = [line.strip("|").split("|") for line in part.split("\n\n")[0].splitlines()[2:]]
        tables.append({one.lower(): cells[1].strip() for cells in rows for one in code(cells[0])})
    return tables


def test_the_stages_are_told() -> None:
    assert {stage.value for stage in Stage} <= set(inline(INGRESS))


def test_own_paths_are_told() -> None:
    told = {tuple(code(cells[0])[0].split()) for cells in table(INGRESS, "path")}
    assert told == {
        (method, route.path)
        for route in (*platform.ROUTES, *health.ROUTES, *page.ROUTES)
        for method in (route.methods or ())
        if method != "HEAD" and route.endpoint is not platform.unknown
    }


def test_the_tables_of_the_database_are_told() -> None:
    made = [re.findall(r"CREATE (?:UNLOGGED )?TABLE (\w+)", each.sql) for each in shipped()]
    told = {one for cells in table(QUEUE, "table") for one in code(cells[0])}
    assert told == {"migrations"}.union(*made)


def test_the_locks_of_the_embedded_database_are_told() -> None:
    files = Files(Path("/data"))
    told = {code(cells[0])[0] for cells in table(QUEUE, "file")}
    assert told == {
        each.name for each in (files.holders_lock, files.start_lock, files.supervisor_lock)
    }


def test_how_often_a_lease_may_stay_unconfirmed_is_told() -> None:
    assert QueueLimits().max_unconfirmed == 10
    assert "after ten of them the request fails" in " ".join(QUEUE.read_text().split())


def test_every_key_of_a_pool_is_told_with_its_default() -> None:
    told = {code(key)[0]: default for key, default, _ in table(POOLS, "key")}
    assert told == {name: _told(field) for name, field in PoolConfig.model_fields.items()}


def _told(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    default = field.get_default(call_default_factory=True, validated_data={})
    if default == 2**30:
        return "1 GiB"
    return {"None": "any", "{}": "none", "True": "yes"}.get(str(default)) or f"{default:g}"


def test_the_metrics_are_told() -> None:
    registry = CollectorRegistry()
    Metrics(registry)
    told = {one for cells in table(OPERATION, "metric") for one in code(cells[0])}
    assert told == {
        each.name + ("_total" if each.type == "counter" else "") for each in registry.collect()
    }


def test_what_lies_in_the_data_directory_is_told() -> None:
    here = Installation(Path("/data"))
    told = {one for cells in table(OPERATION, "path") for one in code(cells[0])}
    files = (here.key_file, here.run_file, here.lock_file, here.log_file)
    assert {str(each.relative_to(here.data_dir)) for each in files} <= told
    assert f"{Files(here.data_dir).home.name}/" in told
