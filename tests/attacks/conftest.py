"""Fixtures of the attacks, and what their end says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.attacks.attempts import Attempts
from tests.attacks.inside import inside
from tests.attacks.scene import ATTACKER, POOLS, SIGN_IN_SECRET, VICTIM, Scene, keys_of
from tests.cluster.darkroom import Darkroom

TRIES = "tries of an attack"
FALLEN = ("failed", "error")


@pytest.fixture(scope="session")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """A Darkroom that calls no private address."""
    darkroom = Darkroom(
        tmp_path_factory.mktemp("attacks") / "data",
        POOLS,
        oidc_client_secret=SIGN_IN_SECRET,
        allow_private_webhooks="0",
        sign_files="local",
        models=str(Path(__file__).parent / "models.yaml"),
    )
    try:
        darkroom.start()
        darkroom.all_ready(1)
        with inside() as server:
            yield Scene(darkroom, keys_of(darkroom, VICTIM), keys_of(darkroom, ATTACKER), server)
    finally:
        darkroom.clear_away()


@pytest.fixture
def attempts(request: pytest.FixtureRequest) -> Iterator[Attempts]:
    """Tries of the test. With ``scene``, none of them may have reached the machine's inside."""
    scene = request.getfixturevalue("scene") if "scene" in request.fixturenames else None
    tally, calls = Attempts(), [] if scene is None else scene.inside.calls
    before = len(calls)
    yield tally
    request.node.user_properties.append((TRIES, tally.made))
    assert tally.made
    assert not tally.fell, "\n".join(tally.fell)
    assert calls[before:] == []


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say of each attack how much it tried, and whether all of it held."""
    # The tries are known at the teardown, whose report is under "" if it went well.
    reports = [
        report for kind in ("", "passed", *FALLEN) for report in _reports(terminalreporter, kind)
    ]
    fallen = {report.nodeid for kind in FALLEN for report in _reports(terminalreporter, kind)}
    outcomes = {
        report.nodeid: tries
        for report in reports
        if (tries := dict(report.user_properties).get(TRIES)) is not None
    }
    if outcomes:
        terminalreporter.section("attacks")
        for name, tries in outcomes.items():
            shown = name.partition("::test_")[2].replace("_", " ")
            fell = "FELL" if name in fallen else "held"
            terminalreporter.write_line(f"{fell} {tries:>6}  {shown}")


def _reports(terminalreporter: pytest.TerminalReporter, kind: str) -> list[pytest.TestReport]:
    reports = terminalreporter.stats.get(kind, ())
    return [report for report in reports if isinstance(report, pytest.TestReport)]
