"""The clock of a node, or of the database, jumps by an hour and back. Needs a C compiler."""

from __future__ import annotations

import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import psutil
import psycopg

from serve_app.queue.reaper import SILENT_S
from tests.cluster.darkroom import eventually
from tests.operations.comparison import Outcome, under_load
from tests.operations.site import Plan, Site, WithStandby, site

SOURCE = Path(__file__).with_name("clock.c")
JUMPS_S = (3600, -3600)
OFF_S = 30.0
NEAR_S = 600.0
SEEN_WITHIN_S = 60.0


def clock_of_node(folder: Path) -> Iterator[Outcome]:
    """That of a node with an ingress and a replica, and that of the head."""
    clock, environment = _clock(folder)
    switches = environment | {"RAY_LD_PRELOAD_ON_WORKERS": "1"}
    with site(folder, Plan(switches=switches)) as running:
        for where, part in (("a node", "ingress"), ("the head", "controller")):
            process = running.place.parts(part)[0]
            own = clock.with_name(f"{clock.name}.{process.ppid()}")
            shown = _of_newest_ids if part == "ingress" else None
            for seconds in JUMPS_S:
                scenario = f"clock of {where} {seconds / 3600:+g} h"
                yield under_load(running, scenario, _jump(own, seconds, shown))


def clock_of_database(folder: Path) -> Iterator[Outcome]:
    clock, environment = _clock(folder)
    clock.write_bytes(struct.pack("l", 0))
    with site(folder, Plan(WithStandby(**environment))) as running:
        time.sleep(SILENT_S)  # until then, no ingress ends what looks silent for long
        for seconds in JUMPS_S:
            scenario = f"clock of the database {seconds / 3600:+g} h"
            yield under_load(running, scenario, _jump(clock, seconds, _of_database))


def _clock(folder: Path) -> tuple[Path, dict[str, str]]:
    """The file with the offset, and the environment of processes that have this clock."""
    folder.chmod(0o755)  # PostgreSQL runs as another user
    library, clock = folder / "clock.so", folder / "clock"
    subprocess.run(["cc", "-shared", "-fPIC", "-O2", "-o", library, SOURCE, "-ldl"], check=True)
    return clock, {"LD_PRELOAD": str(library), "CLOCK": str(clock)}


def _jump(
    clock: Path, seconds: int, shown: Callable[[Site], Iterator[float]] | None
) -> Callable[[Site], Iterator[str]]:
    """``shown``: seconds by which the clock is off, as something shows it."""

    def shows(running: Site, seconds: int) -> bool:
        assert shown is not None
        return any(abs(offset_s - seconds) < NEAR_S for offset_s in shown(running))

    def jump(running: Site) -> Iterator[str]:
        before = _processes(running)
        time.sleep(OFF_S / 3)
        _write(clock, seconds)
        if shown is not None:
            eventually(lambda: shows(running, seconds), "the other time is seen", SEEN_WITHIN_S)
        time.sleep(OFF_S)
        yield f"off for {OFF_S:.0f} s"
        _write(clock, 0)
        time.sleep(OFF_S)
        new = _processes(running) - before
        yield f"and right again for {OFF_S:.0f} s; {len(new)} processes are new"

    return jump


def _processes(running: Site) -> set[psutil.Process]:
    return {process for part in ("ingress", "replica") for process in running.place.parts(part)}


def _write(clock: Path, seconds: int) -> None:
    """In place: processes have mapped the file, and end if it is shorter for a moment."""
    with clock.open("r+b") as file:
        file.write(struct.pack("l", seconds))


def _of_newest_ids(running: Site) -> Iterator[float]:
    """Seconds by which the clocks of the ingresses that made the last ids differ from this one."""
    with psycopg.connect(running.place.conninfo) as connection:
        rows = connection.execute(
            "SELECT id, extract(epoch FROM created_at)::float8 FROM requests "
            "ORDER BY created_at DESC LIMIT 20"
        ).fetchall()
    for id_, created_at in rows:
        assert isinstance(id_, UUID)
        yield (id_.int >> 80) / 1000 - created_at


def _of_database(running: Site) -> Iterator[float]:
    with psycopg.connect(running.place.conninfo) as connection:
        row = connection.execute("SELECT extract(epoch FROM clock_timestamp())::float8").fetchone()
    assert row is not None
    yield row[0] - datetime.now(UTC).timestamp()
