"""pytest plugin that records which test runs which statement, or changes one statement."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from serve_app.postgres.database import Database


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--record-statements", type=Path, help="File that gets a JSON line for each test."
    )
    parser.addoption(
        "--mutant", type=Path, help='File with JSON: `{"statement": …, "changed": …}`.'
    )


def pytest_configure(config: pytest.Config) -> None:
    statement_of = Database._statement
    given: Path | None = config.option.mutant
    mutant: dict[str, str] = json.loads(given.read_text()) if given else {}
    seen: set[str] = set()

    def changed(self: Any, sql: str) -> Any:
        seen.add(sql)
        return statement_of(self, mutant["changed"] if sql == mutant.get("statement") else sql)

    Database._statement = changed  # type: ignore[method-assign]
    if config.option.record_statements:
        config.pluginmanager.register(Recorder(config.option.record_statements, seen))


class Recorder:
    def __init__(self, path: Path, seen: set[str]) -> None:
        self._path = path
        self._seen = seen

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        self._seen.clear()
        result = yield
        if self._seen:
            line = {"test": item.nodeid, "statements": sorted(self._seen)}
            with self._path.open("a") as file:
                file.write(f"{json.dumps(line)}\n")
        return result
