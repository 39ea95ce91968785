"""A rolling upgrade to a version with more migrations, and the way back.

The next version is a copy of the last commit with the migrations that the tests of upgrades make
up, and with a version number of its own, by which the ingresses that run it are told apart.
"""

from __future__ import annotations

import io
import subprocess
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg

from serve_app.telemetry.version import PACKAGE
from tests.cluster.darkroom import ROOT
from tests.operations.comparison import Outcome, under_load
from tests.operations.site import Plan, Site, site
from tests.queue.next_version import add_migrations

BEFORE = "HEAD"
"""Commit that is upgraded, unless another is named."""
NEXT = "0.1.0.post1"
MIXED_S = 20.0
INGRESS, POOL = "darkroom", "darkroom-small"


def upgrade(folder: Path, version: str) -> Iterator[Outcome]:
    old, new = folder / "before", folder / "after"
    _check_out(version, old)
    _check_out("HEAD", new)
    add_migrations(new / "serve_app" / "queue" / "schema")
    _number(new, NEXT)
    with site(folder, Plan(tree=old)) as running:
        before = running.applications()

        def go_on(_: Site) -> Iterator[str]:
            assert not _is_new(running)
            at = _migrations(running)
            running.install(new)
            after = running.applications()
            took = _deploy(running, after[INGRESS], before[POOL])
            assert _is_new(running)
            assert _migrations(running) > at
            yield f"migrations {at} to {_migrations(running)} in {took:.0f} s with the ingress"
            time.sleep(MIXED_S)
            yield f"new ingress with old replicas for {MIXED_S:.0f} s"
            took = _deploy(running, after[INGRESS], after[POOL])
            yield f"replicas replaced in {took:.0f} s"
            time.sleep(MIXED_S)

        yield under_load(running, "rolling upgrade", go_on)
        after = {application["name"]: application for application in running.deployed}

        def go_back(_: Site) -> Iterator[str]:
            running.install(old)
            took = _deploy(running, before[INGRESS], after[POOL])
            assert not _is_new(running)
            yield f"old ingress starts on migration {_migrations(running)}, in {took:.0f} s"
            time.sleep(MIXED_S)
            yield f"old ingress with new replicas for {MIXED_S:.0f} s"
            took = _deploy(running, before[INGRESS], before[POOL])
            yield f"replicas replaced in {took:.0f} s"
            time.sleep(MIXED_S)

        yield under_load(running, "rollback", go_back)

        def go_on_again(_: Site) -> Iterator[str]:
            running.install(new)
            took = _deploy(running, after[INGRESS], after[POOL])
            assert _is_new(running)
            yield f"both applications replaced at once, in {took:.0f} s"

        yield under_load(running, "upgrade after a rollback", go_on_again)


def _deploy(running: Site, *applications: dict[str, object]) -> float:
    """Seconds that it took."""
    began = time.monotonic()
    running.deploy(applications)
    return time.monotonic() - began


def _migrations(running: Site) -> int:
    with psycopg.connect(running.place.conninfo) as connection:
        (number,) = connection.execute("SELECT max(number) FROM migrations").fetchone() or (0,)
    return number


def _is_new(running: Site) -> bool:
    """True if the ingress that started last has the new version."""
    with psycopg.connect(running.place.conninfo) as connection:
        (version,) = connection.execute(
            "SELECT version FROM processes WHERE kind = 'ingress' ORDER BY started_at DESC LIMIT 1"
        ).fetchone() or ("",)
    return version == NEXT


def _check_out(version: str, tree: Path) -> None:
    archived = subprocess.run(
        ["git", "archive", version], cwd=ROOT, check=True, capture_output=True
    ).stdout
    with tarfile.open(fileobj=io.BytesIO(archived)) as files:
        files.extractall(tree, filter="data")


def _number(tree: Path, number: str) -> None:
    """Give the package in ``tree`` a version number, which comes before that of the environment."""
    installed = tree / f"{PACKAGE.replace('-', '_')}-{number}.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text(f"Name: {PACKAGE}\nVersion: {number}\n")
