"""The tables of the docs say what the code does."""

from __future__ import annotations

import re
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter
from pydantic.fields import FieldInfo

from serve_app.cli.connection.installation import Installation
from serve_app.domain import errors
from serve_app.domain.errors import DarkroomError
from serve_app.domain.progress import Stage
from serve_app.embedded_postgres.files import ClusterFiles
from serve_app.ingress.api import routes as api
from serve_app.ingress.api.files import content
from serve_app.ingress.http.errors import TABLE
from serve_app.ingress.openapi import routes as openapi
from serve_app.ingress.submission.options import (
    DARKROOM_HEADERS,
    LIFECYCLES,
    NO_EFFECT,
    NO_FALLBACK,
    PRIORITY,
    STORE_IO,
    TIMEOUT,
    UPLOAD_POLICY,
)
from serve_app.ingress.submission.options import RETRY_HEADERS as RETRIES
from serve_app.queue.store.config import QueueLimits
from serve_app.queue.store.migrations import list_migrations
from serve_app.queue.transactions.end_attempt import UNCONFIRMED_REPLICAS
from serve_app.settings import PoolConfig
from serve_app.settings.pools import WarmConfig
from serve_app.telemetry.metrics import Metrics
from serve_app.telemetry.trace_context import TRACEPARENT, TRACESTATE
from tests.docs.pages import DOCS, ROOT, code, inline, table

REFERENCE = DOCS / "reference"
API = REFERENCE / "api.md"
ERRORS = REFERENCE / "errors.md"
FAL = REFERENCE / "fal-protocol.md"
METRICS = REFERENCE / "metrics.md"
SETTINGS = REFERENCE / "settings.md"
QUEUE = DOCS / "explanation" / "queue.md"
TABLES = ROOT / "serve_app" / "queue" / "README.md"


def test_every_error_says_what_it_means_and_what_to_do() -> None:
    for *_, meaning, action in table(ERRORS, "error"):
        assert meaning.endswith(".")
        assert action.endswith(".")


def test_every_code_of_the_tree_is_documented() -> None:
    kinds = [value for value in vars(errors).values() if isinstance(value, type)]
    codes = {kind.code for kind in kinds if issubclass(kind, DarkroomError)}
    assert codes <= set(inline(ERRORS))


def test_the_table_of_errors_is_the_one_that_answers() -> None:
    documented = {
        code(error)[0]: (int(status), *code(type_), *code(own), again == "yes")
        for error, status, type_, own, again, *_ in table(ERRORS, "error")
    }
    assert documented == {
        kind.__name__: (answer.status, answer.type, kind.code, kind.retryable)
        for kind, answer in TABLE.items()
    }


def test_ignored_headers_are_documented_with_their_reasons() -> None:
    _, ignored = _header_tables()
    assert ignored == {header.decode(): reason for header, reason in NO_EFFECT.items()}


def test_honoured_headers_are_documented() -> None:
    honoured, _ = _header_tables()
    own = TIMEOUT, PRIORITY, STORE_IO, UPLOAD_POLICY, NO_FALLBACK, *LIFECYCLES, *RETRIES
    headers = {header.decode() for header in (*own, *DARKROOM_HEADERS, TRACEPARENT, TRACESTATE)}
    assert honoured.keys() == {"authorization"} | headers


def _header_tables() -> list[dict[str, str]]:
    """Both have the same first heading."""
    parts = FAL.read_text().split("\n| header |")[1:]
    tables: list[dict[str, str]] = []
    for part in parts:
        rows = [line.strip("|").split("|") for line in part.split("\n\n")[0].splitlines()[2:]]
        tables.append({name.lower(): cells[1].strip() for cells in rows for name in code(cells[0])})
    return tables


def test_the_stages_are_documented() -> None:
    assert {stage.value for stage in Stage} <= set(inline(FAL))


def test_own_paths_are_documented() -> None:
    documented = {
        tuple(piece.split())
        for piece in inline(API)
        if piece.split()[0] in ("GET", "PUT", "POST", "PATCH", "DELETE")
    }
    assert documented >= {
        (method, route.path.replace(":path}", "}"))
        for route in (*api.ROUTES, *openapi.ROUTES)
        for method in (route.methods or ())
        if method != "HEAD" and route.endpoint is not api.unknown and route not in content.ROUTES
    }


def test_the_tables_of_the_database_are_documented() -> None:
    created = [
        re.findall(r"CREATE (?:UNLOGGED )?TABLE (?:IF NOT EXISTS )?(\w+)", migration.sql)
        for migration in list_migrations()
    ]
    documented = {name for cells in table(TABLES, "table") for name in code(cells[0])}
    assert documented == {"migrations"}.union(*created)


def test_the_locks_of_the_embedded_database_are_documented() -> None:
    files = ClusterFiles(Path("/data"))
    documented = {code(cells[0])[0] for cells in table(TABLES, "file")}
    assert documented == {
        lock.name for lock in (files.holders_lock, files.start_lock, files.supervisor_lock)
    }


def test_how_often_a_lease_may_stay_unconfirmed_is_documented() -> None:
    assert (QueueLimits().max_unconfirmed, UNCONFIRMED_REPLICAS) == (10, 3)
    assert "after ten of them, on three replicas or more, the request fails" in " ".join(
        QUEUE.read_text().split()
    )


def test_every_key_of_a_pool_is_documented_with_its_default() -> None:
    for heading, config in (("key", PoolConfig), ("warm key", WarmConfig)):
        documented = {code(key)[0]: default for key, default, _ in table(SETTINGS, heading)}
        assert documented == {
            name: _documented(field) for name, field in config.model_fields.items()
        }


def _documented(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    default = field.get_default(call_default_factory=True, validated_data={})
    if default == 2**30:
        return "1 GiB"
    words = {"None": "any", "{}": "none", "()": "none", "": "none", "True": "yes"}
    if isinstance(default, str) and default:
        return f"`{default}`"
    return words.get(str(default)) or f"{default:g}"


def test_the_metrics_are_documented_with_their_labels() -> None:
    metrics = Metrics(CollectorRegistry())
    documented = {
        name: tuple(code(labels))
        for names, labels, _ in table(METRICS, "metric")
        for name in code(names)
    }
    assert documented == {
        metric._name + ("_total" if isinstance(metric, Counter) else ""): metric._labelnames
        for metric in metrics.list_metrics()
    }


def test_what_lies_in_the_data_directory_is_documented() -> None:
    here = Installation(Path("/data"))
    documented = {name for cells in table(SETTINGS, "path") for name in code(cells[0])}
    files = (here.key_file, here.run_file, here.lock_file, here.log_file, here.address_file)
    assert {str(file.relative_to(here.data_dir)) for file in files} <= documented
    assert f"{ClusterFiles(here.data_dir).home.name}/" in documented
