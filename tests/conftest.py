"""The one real Darkroom that all tests share which leave it as it was; a test that breaks one for
good makes its own."""

from __future__ import annotations

import gc
import os
import random
import ssl
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import certifi
import httpcore2
import pytest
from hypothesis import HealthCheck, settings

from tests.captured_logs import CapturedLogs
from tests.cluster.darkroom import Darkroom
from tests.samples import leave_variants

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

HERE = Path(__file__).parent
CLUSTER = tuple(
    HERE / name
    for name in (
        *("attacks", "bad_days", "cluster"),
        *("docs/test_transcripts.py", "page/test_cluster.py"),
        *(f"wire/test_fal_{client}_client.py" for client in ("javascript", "python")),
        *("wire/test_fal_javascript_realtime.py", "wire/test_fal_realtime.py"),
        *("wire/test_fal_python_uploads.py", "wire/test_other_protocols.py"),
        "wire/test_webhooks.py",
    )
)
"""Where the tests marked ``cluster`` are. ``pytest -m cluster`` collects nothing else, because to
import all test modules takes longer than to start a Darkroom."""

SHARED = {"darkroom", "darkroom_address"}
"""Fixtures of the one Darkroom."""

# torch reads it when it is imported, here and in all that tests start. With a thread for each core,
# threads spin while they wait for one that other processes keep from running: beside other tests on
# two cores, drawing with the demo Flux took four times the CPU time. Tests of several threads set
# their number.
os.environ.setdefault("OMP_NUM_THREADS", "1")  # noqa: TID251

# All that is imported stays until the end. To look through it for garbage again and again took half
# of the CPU time of a collection: 27 s for the tests outside the cluster, and 14 s without.
gc.disable()

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
        "--rounds", type=int, default=1, help="How often tests/cluster/test_operations.py repeats."
    )
    parser.addoption(
        "--snapshot-minutes",
        type=float,
        default=0.0,
        help="How long tests/crash/test_database.py holds a snapshot open; 0: for 60 requests.",
    )
    parser.addoption(
        "--crash-tally", type=Path, help="A file to which checks of tests/crash add a line each."
    )


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Ignore what has no test of the cluster, in a run of all that have one."""
    if config.args_source is config.ArgsSource.ARGS or not _needs_cluster(config.option.markexpr):
        return None
    near = (
        collection_path.is_relative_to(folder) or folder.is_relative_to(collection_path)
        for folder in CLUSTER
    )
    return None if any(near) else True


def _needs_cluster(markers: str) -> bool:
    first, *others = markers.split() or [""]
    return first == "cluster" and "or" not in others


@pytest.hookimpl(tryfirst=True)  # before those without the cluster are all that is left
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the tests last that share a Darkroom. Idle, it takes a fifth of a processor, so it should
    not run beside those that others start."""
    cluster = [item for item in items if item.get_closest_marker("cluster")]
    strays = {
        item.path.relative_to(HERE).as_posix()
        for item in cluster
        if not any(item.path.is_relative_to(folder) for folder in CLUSTER)
    }
    if strays:
        raise pytest.UsageError(f"Add to CLUSTER in tests/conftest.py: {', '.join(sorted(strays))}")
    sharing = {item for item in cluster if SHARED.intersection(_fixtures(item))}
    items.sort(key=lambda item: item in sharing)
    leave_variants(items)


def pytest_collection_finish() -> None:
    """From here on, look for garbage in what the tests themselves make."""
    gc.freeze()
    gc.enable()


def _fixtures(item: pytest.Item) -> list[str]:
    return item.fixturenames if isinstance(item, pytest.Function) else []


@pytest.fixture(scope="module", autouse=True)
def garbage_of_one_module() -> Iterator[None]:
    """Look for garbage in what the tests of one module make.

    What earlier modules have imported and cached stays. The engine collects garbage where it frees
    memory, and went through all of that each time: a fifth of the CPU time of its tests."""
    yield
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def certificates_read_once() -> Iterator[None]:
    """Share the TLS context with the usual roots, which each of httpx's and httpx2's clients makes.

    To read them took 20 ms of CPU, and 8% of that of the tests of the ingress and the command line,
    most of whose clients never speak TLS."""
    create, create_of_system = ssl.create_default_context, httpcore2.default_ssl_context

    @cache
    def usual(cafile: str | None, *_: str | None) -> ssl.SSLContext:
        return create(cafile=cafile)

    @cache
    def of_system(*_: str | None) -> ssl.SSLContext:
        return create_of_system()

    def shared(*arguments: Any, **named: Any) -> ssl.SSLContext:
        cafile = named.get("cafile")
        if (
            arguments
            or named.keys() - {"cafile"}
            or cafile not in {*MACHINE_ROOTS, certifi.where()}
        ):
            return create(*arguments, **named)
        return usual(cafile, *_roots())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ssl, "create_default_context", shared)
        patch.setattr(httpcore2, "default_ssl_context", lambda **_: of_system(*_roots()))
        yield


def _roots() -> tuple[str | None, ...]:
    return tuple(map(os.environ.get, ("SSL_CERT_FILE", "SSL_CERT_DIR")))  # noqa: TID251


MACHINE_ROOTS = (None, _roots()[0])


@pytest.fixture
def caplog() -> Iterator[CapturedLogs]:
    with CapturedLogs().attached() as logs:
        yield logs


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
    """Two replicas of two slots each; leases of 6 s. A closed terminal ends it, with all that it
    started (tests/cluster/changing/test_environment.py has what else ends one)."""
    running = Darkroom(tmp_path_factory.mktemp("cluster") / "data", POOLS, lease_s="6")
    try:
        yield running.start()
        running.hang_up()
        running.wait_for_end()
        assert running.leftovers() == []
    finally:
        running.clear_away()
