"""One Darkroom with two replicas for all tests that leave it as it was; those that break it for good
make their own."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.darkroom import Darkroom

POOLS = {
    "studio": {
        "families": ["probe", "flux"],
        "slots": 2,
        "num_cpus": 0.1,
        "min_replicas": 2,
        "max_replicas": 2,
        "threads": 1,
    }
}


@pytest.fixture(scope="session")
def darkroom(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Darkroom]:
    running = Darkroom(tmp_path_factory.mktemp("cluster") / "data", POOLS, lease_s="6")
    try:
        yield running.start()
        assert running.stop() < 10.0
        assert running.leftovers() == []
    finally:
        for process in running.leftovers():
            process.kill()


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    return tmp_path / "data"
