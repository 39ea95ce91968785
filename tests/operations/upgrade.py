"""A rolling upgrade from the version before the last migrations, and the way back."""

from __future__ import annotations

import io
import subprocess
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg

from tests.cluster.darkroom import ROOT
from tests.cluster.nodes import client_at
from tests.operations.comparison import Outcome, under_load
from tests.operations.site import Plan, Site, site

BEFORE = "61bb3d00"
"""Last commit before migration 0051: the version that is upgraded, unless another is named."""
MIXED_S = 20.0
INGRESS, POOL = "darkroom", "darkroom-small"


def upgrade(folder: Path, version: str) -> Iterator[Outcome]:
    old, new = folder / "before", ROOT
    archived = subprocess.run(
        ["git", "archive", version], cwd=ROOT, check=True, capture_output=True
    ).stdout
    with tarfile.open(fileobj=io.BytesIO(archived)) as tree:
        tree.extractall(old, filter="data")
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
        after = {each["name"]: each for each in running.deployed}

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
    """True if ingresses of the new version answer: the version before has no such route."""
    with client_at(running.place.nodes.port) as client:
        return client.get("/readyz/reads").status_code != 404
