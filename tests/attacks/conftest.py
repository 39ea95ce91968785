"""Fixtures of the attacks, and what their end says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.attacks.attempts import Attempts
from tests.attacks.inside import inside
from tests.attacks.scene import ATTACKER, VICTIM, Scene, keys_of
from tests.cluster.darkroom import Darkroom

TRIES = "tries of an attack"


@pytest.fixture(scope="session")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """A Darkroom that calls no private address."""
    darkroom = Darkroom(
        tmp_path_factory.mktemp("attacks") / "data",
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
def attempts(request: pytest.FixtureRequest, scene: Scene) -> Iterator[Attempts]:
    """Tries of the test. None of them may have reached the machine's inside."""
    found, before = Attempts(), len(scene.inside.calls)
    yield found
    request.node.user_properties.append((TRIES, found.made))
    assert found.made
    assert not found.fell, "\n".join(found.fell)
    assert scene.inside.calls[before:] == []


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say of each attack how much it tried, and whether all of it held."""
    outcomes: dict[str, tuple[int, bool]] = {}
    for kind in ("passed", "failed", "error"):
        for report in terminalreporter.stats.get(kind, ()):
            tries = dict(getattr(report, "user_properties", ())).get(TRIES)
            if tries is not None:
                _, fell = outcomes.get(report.nodeid, (0, False))
                outcomes[report.nodeid] = (tries, fell or kind != "passed")
    if outcomes:
        terminalreporter.section("attacks")
        for name, (tries, fell) in outcomes.items():
            shown = name.partition("::test_")[2].replace("_", " ")
            terminalreporter.write_line(f"{'FELL' if fell else 'held'} {tries:>6}  {shown}")
