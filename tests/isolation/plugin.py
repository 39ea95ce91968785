"""pytest plugin that records which test runs which statement, or runs tests with mutants."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import pytest

from serve_app.postgres.database import Database
from tests.isolation.mutant import Mutant, read_mutants

TESTS = Path(__file__).parents[1]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--record-statements", type=Path, help="File that gets a JSON line for each test."
    )
    parser.addoption("--mutants", type=Path, help="File with a mutant and its tests in each line.")


def pytest_configure(config: pytest.Config) -> None:
    statement_of = Database._statement
    seen: set[str] = set()
    mutants = read_mutants(config.option.mutants) if config.option.mutants else []
    runner = MutantRunner(mutants)

    def changed(self: Any, sql: str) -> Any:
        if not _asked_by_a_test():
            seen.add(sql)
        return statement_of(self, runner.replaced.get(sql, sql))

    Database._statement = changed  # type: ignore[method-assign]
    if mutants:
        config.pluginmanager.register(runner)
    if config.option.record_statements:
        config.pluginmanager.register(Recorder(config.option.record_statements, seen))


def _asked_by_a_test() -> bool:
    """Return whether a test asks the database itself: that keeps no tenants apart."""
    frame = inspect.currentframe()
    frame = frame and frame.f_back
    while frame and isinstance(frame.f_locals.get("self"), Database):
        frame = frame.f_back
    return frame is not None and Path(frame.f_code.co_filename).is_relative_to(TESTS)


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


class MutantRunner:
    """Runs the tests of each mutant in turn until one fails, in one session: to start pytest and a
    database for each mutant takes longer than its tests."""

    def __init__(self, mutants: Sequence[Mutant]) -> None:
        self._mutants = mutants
        self._has_failed = False
        self.replaced: Mapping[str, str] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._has_failed |= report.failed

    def pytest_report_teststatus(self, report: pytest.TestReport) -> tuple[str, str, str]:
        return report.outcome, "", ""  # what is said is the verdict

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        items = {item.nodeid: item for item in session.items}
        hook = session.config.hook
        wrong = 0
        for number, mutant in enumerate(self._mutants, start=1):
            self._has_failed, self.replaced = False, {mutant.statement: mutant.changed}
            for name in mutant.tests:
                item = items[name]
                item._initrequest()  # type: ignore[attr-defined]  # it may have run before
                # Ends what the item before has made beyond what both share, and then all of this
                # one's but what its module shares.
                session._setupstate.teardown_exact(item)
                hook.pytest_runtest_protocol(item=item, nextitem=item.parent)
                if self._has_failed:
                    break
            click.echo(f"{number} of {len(self._mutants)}: {mutant.verdict(self._has_failed)}")
            if self._has_failed == bool(mutant.reason):
                wrong += 1
                click.echo(f"\nby {len(mutant.tests)} tests:\n{mutant.difference()}\n")
        self.replaced = {}
        session._setupstate.teardown_exact(None)
        session.testsfailed = wrong
        click.echo(f"{len(self._mutants)} conditions, {wrong} not noticed or with a wrong reason")
        return True
