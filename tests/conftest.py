"""The one real Darkroom that all tests share which leave it as it was; a test that breaks one for
good makes its own."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.cluster.darkroom import Darkroom

POOLS = {
    "studio": {
        "families": ["probe", "flux", "sdxl", "video", "audio"],
        "slots": 2,
        "num_cpus": 0.1,
        "min_replicas": 2,
        "snapshot_interval_s": 0.5,
        "max_replicas": 2,
        "threads": 1,
    }
}

# How long an example takes says how busy the machine is.
settings.register_profile("darkroom", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("darkroom")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--conformance-seed",
        type=int,
        help="Repeat the sample of pipeline classes that a run of the tests took.",
    )
    parser.addoption("--crash-seed", type=int, help="Repeat what chance did.")
    parser.addoption(
        "--crash-tally", type=Path, help="A file to which checks of tests/crash add a line each."
    )


@pytest.fixture
def tally_file(request: pytest.FixtureRequest) -> Path | None:
    """Where each check writes what it found."""
    return request.config.getoption("--crash-tally")


@pytest.fixture
def chance(request: pytest.FixtureRequest) -> random.Random:
    """Repeats itself under the same ``--crash-seed``, which a failed test shows."""
    seed = request.config.getoption("--crash-seed")
    if seed is None:
        seed = random.SystemRandom().randrange(10**6)
    request.node.add_report_section("call", "seed", f"Again: --crash-seed {seed}")
    return random.Random(seed)  # noqa: S311


@pytest.fixture(scope="session")
def darkroom(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Darkroom]:
    """Two replicas of two slots each; leases of 6 s."""
    running = Darkroom(tmp_path_factory.mktemp("cluster") / "data", POOLS, lease_s="6")
    try:
        yield running.start()
        running.stop()
        assert running.leftovers() == []
    finally:
        running.clear_away()
