"""One bad day: a row of the matrix under load, and what became of the requests."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime

import psutil
import psycopg

from tests.bad_days.clients import Clients
from tests.bad_days.installation import Installation
from tests.bad_days.rows import Row
from tests.chaos.history import FINAL, History
from tests.cluster.darkroom import eventually

FOLLOWERS, SUBMITTERS = 3, 3
BEFORE_S = 2.0
AFTER_S = 3.0
PATIENCE_S = 300.0


@dataclass(frozen=True)
class Result:
    """Seconds are upper bounds: they include what the machine was slow at."""

    name: str
    part: str
    how: str
    seconds: float
    date: str
    accepted: int
    lost: int
    failed: int
    ended_twice: int
    billed_twice: int
    interrupted: int  # attempts that ended without being counted
    failures: int  # attempts that were counted
    webhooks: int  # requests whose webhook arrived
    new_replicas: int  # processes that were not there before
    new_ingresses: int
    longest_gap_s: float
    slowest_submit_s: float
    whole_after_s: float | None  # after the fault's end
    answers: dict[str, int] = field(default_factory=dict[str, int])
    problems: tuple[str, ...] = ()

    @property
    def good(self) -> bool:
        return not (self.problems or self.lost or self.failed)


def day(place: Installation, row: Row, seconds: float) -> Result:
    """Let ``row``'s fault last for ``seconds`` under load, and wait until all is whole again."""
    url = place.receiver.url()
    seconds = row.seconds or seconds
    before = _processes(place)
    whole_after_s: float | None = None
    with Clients(place.nodes.port, url, FOLLOWERS, SUBMITTERS) as clients:
        heard = clients.heard
        eventually(lambda: len(heard.accepted_at) >= FOLLOWERS, "requests are accepted", PATIENCE_S)
        time.sleep(BEFORE_S)
        began = time.monotonic()
        with row.fault(place, seconds):
            time.sleep(max(0.0, began + seconds - time.monotonic()))
        healed = time.monotonic()
        try:
            eventually(place.whole, "all is whole again", PATIENCE_S)
            whole_after_s = round(time.monotonic() - healed, 1)
        except AssertionError:
            heard.final.append("It was not whole again")
        time.sleep(AFTER_S)
        ended = time.monotonic()
    problems = [*heard.final, *_until_ended(place, heard.accepted_at)]
    history = History(accepted=set(heard.accepted_at), server_crashed=row.part == "PostgreSQL")
    with psycopg.connect(place.conninfo) as connection:
        tally = history.check(connection, place.objects(), others=False)
        rows = connection.execute(
            "SELECT id::text, state, failures FROM requests WHERE id::text = ANY(%s)",
            (sorted(heard.accepted_at),),
        ).fetchall()
        (interrupted,) = connection.execute(
            "SELECT count(*) FROM attempts "
            "WHERE ended = 'interrupted' AND request_id::text = ANY(%s)",
            (sorted(heard.accepted_at),),
        ).fetchone() or (0,)
    delivered = _delivered(place, heard.accepted_at)
    if len(delivered) != len(heard.accepted_at):
        problems.append(f"{len(heard.accepted_at) - len(delivered)} webhooks did not arrive.")
    states = Counter(state for _, state, _ in rows)
    replicas, ingresses = _processes(place)
    return Result(
        name=row.name,
        part=row.part,
        how=row.how,
        seconds=seconds,
        date=datetime.now(UTC).date().isoformat(),
        accepted=tally.accepted,
        lost=tally.lost,
        failed=states["failed"],
        ended_twice=tally.ended_twice,
        billed_twice=tally.billed_twice,
        interrupted=interrupted,
        failures=sum(failures for *_, failures in rows),
        webhooks=len(delivered),
        new_replicas=len(replicas - before[0]),
        new_ingresses=len(ingresses - before[1]),
        longest_gap_s=round(heard.longest_gap_s(began, ended), 1),
        slowest_submit_s=round(heard.slowest_submit_s, 1),
        whole_after_s=whole_after_s,
        answers=dict(heard.answers),
        problems=(*problems, *tally.problems),
    )


def _processes(place: Installation) -> tuple[set[psutil.Process], set[psutil.Process]]:
    """Those of the replicas, and those of the ingresses."""
    return set(place.parts("replica")), set(place.parts("ingress"))


def _until_ended(place: Installation, accepted: dict[str, float]) -> Iterator[str]:
    """Wait until all that was accepted has ended and its webhooks are delivered."""
    ids = sorted(accepted)
    open_ones = (
        "SELECT count(*) FROM requests WHERE id::text = ANY(%s) AND NOT state::text = ANY(%s)"
    )

    def left() -> bool:
        with psycopg.connect(place.conninfo) as connection:
            row = connection.execute(
                open_ones, (ids, [str(each.value) for each in FINAL])
            ).fetchone()
        return row == (0,) and len(_delivered(place, accepted)) == len(ids)

    try:
        eventually(left, "all requests end and their webhooks arrive", PATIENCE_S)
    except AssertionError as late:
        yield str(late)


def _delivered(place: Installation, accepted: dict[str, float]) -> set[str]:
    """Ids of requests whose webhook the receiver got."""
    bodies = [received.body.decode() for received in place.receiver.received]
    return {id_ for id_ in accepted if any(id_ in body for body in bodies)}
