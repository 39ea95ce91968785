"""A standby of PostgreSQL is promoted, with and without lost transactions."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from tests.crash.test_failover import replicate_before_acknowledging
from tests.operations.comparison import Outcome, under_load
from tests.operations.site import Plan, Site, WithStandby, site

BEFORE_S, CUT_S, AFTER_S = 10.0, 5.0, 20.0


def failover(folder: Path) -> Iterator[Outcome]:
    """With a synchronous standby, as the documentation says."""
    database = WithStandby()
    with site(folder, Plan(database)) as running:
        run = running.place.background.run
        assert database.servers is not None
        servers = database.servers
        run(replicate_before_acknowledging(servers, "*"))

        def fail_over(_: Site) -> Iterator[str]:
            time.sleep(BEFORE_S)
            run(servers.fail_over())
            yield "the standby was synchronous, and was promoted at once"
            time.sleep(AFTER_S)

        yield under_load(running, "failover, synchronous standby", fail_over)


def failover_with_loss(folder: Path) -> Iterator[Outcome]:
    """With an asynchronous standby, which is cut off before the primary stops."""
    database = WithStandby()
    with site(folder, Plan(database)) as running:
        run = running.place.background.run
        assert database.servers is not None
        servers = database.servers

        def fail_over(running: Site) -> Iterator[str]:
            time.sleep(BEFORE_S)
            servers.cut()
            time.sleep(CUT_S)
            there = _ids(run(servers.standby.ask("SELECT id::text FROM requests")))
            run(servers.fail_over())
            promoted = time.monotonic()
            running.may_be_lost = lambda id_, at: at < promoted and id_ not in there
            yield f"the standby was cut off {CUT_S:.0f} s before the primary stopped"
            time.sleep(AFTER_S)

        yield under_load(running, "failover, standby cut off before", fail_over)


def _ids(rows: list[tuple[object, ...]]) -> set[str]:
    return {str(id_) for (id_,) in rows}
