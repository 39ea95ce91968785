"""One bad day: a row of the matrix under load, or faults of all rows, and what became of the
requests."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from random import Random

import psutil
import psycopg

from tests.bad_days.alerts import Alert, Prometheus, prometheus
from tests.bad_days.clients import Clients
from tests.bad_days.installation import METRICS_PORT, Installation
from tests.bad_days.rows import Absent, Row
from tests.chaos.history import FINAL, History
from tests.cluster import network
from tests.cluster.darkroom import eventually

FOLLOWERS, SUBMITTERS = 3, 3
BEFORE_S = 2.0
AFTER_S = 3.0
PATIENCE_S = 300.0
MAY_CRASH = frozenset({"PostgreSQL", "everything"})
TWO = 0.5
"""Share of rounds of everything at once in which a second fault overlaps the first one."""

LASTS_S = 10.0, 60.0
"""How long such a fault lasts."""


@dataclass(frozen=True)
class Result:
    """Seconds are upper bounds: they include what the machine was slow at."""

    name: str
    part: str
    how: str
    seconds: float
    date: str = field(default_factory=lambda: datetime.now(UTC).date().isoformat())
    accepted: int = 0
    lost: int = 0
    failed: int = 0
    ended_twice: int = 0
    billed_twice: int = 0
    interrupted: int = 0  # attempts that ended without being counted
    failures: int = 0  # attempts that were counted
    webhooks: int = 0  # requests whose webhook arrived
    new_replicas: int = 0  # processes that were not there before
    new_ingresses: int = 0
    longest_gap_s: float = 0.0
    slowest_submit_s: float = 0.0
    whole_after_s: float | None = None  # after the fault's end
    answers: dict[str, int] = field(default_factory=dict[str, int])
    alerts: tuple[Alert, ...] | None = None  # if a Prometheus looked for them
    problems: tuple[str, ...] = ()

    @property
    def good(self) -> bool:
        return not (self.problems or self.lost or self.failed)


def day(place: Installation, row: Row, seconds: float, *, alerts: bool = False) -> Result:
    """Let ``row``'s fault last for ``seconds`` under load, and wait until all is whole again.
    ``alerts``: with a Prometheus that looks for them."""
    seconds = row.seconds or seconds

    def breaks() -> float | None:
        row.breaks(place, seconds)
        return _whole_after_s(place)

    return _under_load(place, Result(row.name, row.part, row.how, seconds), breaks, alerts=alerts)


def everything(place: Installation, rows: Sequence[Row], seconds: float, random: Random) -> Result:
    """Let faults of ``rows`` happen for ``seconds``: at random, one or two that overlap, and the
    next ones when all is whole again."""
    end = time.monotonic() + seconds
    faults = 0

    def breaks() -> float | None:
        nonlocal faults
        longest_s = 0.0
        while time.monotonic() < end:
            faults += _round(place, _chosen(rows, random))
            whole_after_s = _whole_after_s(place)
            if whole_after_s is None:
                return None
            longest_s = max(longest_s, whole_after_s)
            time.sleep(random.uniform(0, AFTER_S))
        return longest_s

    result = _under_load(place, Result("everything", "everything", "", seconds), breaks)
    return replace(result, how=f"{faults} faults")


def _chosen(rows: Sequence[Row], random: Random) -> dict[Row, tuple[float, float]]:
    """One or two rows, each with the seconds after which it begins and that it lasts."""
    first = random.choice(rows)
    lasts_s = first.seconds or random.uniform(*LASTS_S)
    chosen = {first: (0.0, lasts_s)}
    if random.random() < TWO:
        second = random.choice([row for row in rows if row.beside(first)])
        chosen[second] = (
            random.uniform(0, lasts_s),
            second.seconds or random.uniform(*LASTS_S),
        )
    return chosen


def _round(place: Installation, chosen: Mapping[Row, tuple[float, float]]) -> int:
    """Break the chosen ones. Returns how many were there to be broken."""

    def breaks(row: Row, after_s: float, lasts_s: float) -> bool:
        time.sleep(after_s)
        try:
            row.breaks(place, lasts_s)
        except Absent:
            return False
        return True

    with ThreadPoolExecutor(len(chosen)) as pool:
        broken = [pool.submit(breaks, row, *times) for row, times in chosen.items()]
        done = [future.result() for future in broken]
    outages = {row.name: [round(moment, 1) for moment in times] for row, times in chosen.items()}
    print(json.dumps({"broken": outages, "there": done}), flush=True)  # noqa: T201
    return sum(done)


def _whole_after_s(place: Installation) -> float | None:
    """Seconds from now until all is whole; None if it is not."""
    healed = time.monotonic()
    try:
        eventually(place.is_whole, "all is whole again", PATIENCE_S)
    except AssertionError:
        return None
    return round(time.monotonic() - healed, 1)


def _under_load(
    place: Installation,
    result: Result,
    breaks: Callable[[], float | None],
    *,
    alerts: bool = False,
) -> Result:
    """Fill in ``result``: what clients, files and database have after ``breaks``, which returns
    when all is whole again, and how long that took."""
    before = _processes(place)
    with Clients(place.nodes.port, place.receiver.url(), FOLLOWERS, SUBMITTERS) as clients:
        heard = clients.heard
        eventually(lambda: len(heard.accepted_at) >= FOLLOWERS, "requests are accepted", PATIENCE_S)
        time.sleep(BEFORE_S)
        with _prometheus(place) if alerts else nullcontext() as watcher:
            began = time.monotonic()
            if watcher is not None:
                watcher.breaks()
            whole_after_s = breaks()
            if whole_after_s is None:
                heard.final.append("It was not whole again")
            time.sleep(AFTER_S)
            ended = time.monotonic()
            seen = None if watcher is None else watcher.alerts()
    problems = [*heard.final, *_until_ended(place, heard.accepted_at)]
    history = History(accepted=set(heard.accepted_at), server_crashed=result.part in MAY_CRASH)
    ids = sorted(heard.accepted_at)
    with psycopg.connect(place.conninfo) as connection:
        tally = history.check(connection, place.objects(), others=False)
        rows = connection.execute(
            "SELECT id::text, state, failures, outcome FROM requests WHERE id::text = ANY(%s)",
            (ids,),
        ).fetchall()
        (interrupted,) = connection.execute(
            "SELECT count(*) FROM attempts "
            "WHERE ended = 'interrupted' AND request_id::text = ANY(%s)",
            (ids,),
        ).fetchone() or (0,)
    arrived = delivered_ids(place) & heard.accepted_at.keys()
    if len(arrived) != len(heard.accepted_at):
        problems.append(f"{len(heard.accepted_at) - len(arrived)} webhooks did not arrive.")
    failed = [f"{id_} failed: {outcome}" for id_, state, _, outcome in rows if state == "failed"]
    replicas, ingresses = _processes(place)
    return replace(
        result,
        accepted=tally.accepted,
        lost=tally.lost,
        failed=len(failed),
        ended_twice=tally.ended_twice,
        billed_twice=tally.billed_twice,
        interrupted=interrupted,
        failures=sum(failures for _, _, failures, _ in rows),
        webhooks=len(arrived),
        new_replicas=len(replicas - before[0]),
        new_ingresses=len(ingresses - before[1]),
        longest_gap_s=round(heard.longest_gap_s(began, ended), 1),
        slowest_submit_s=round(heard.slowest_submit_s, 1),
        whole_after_s=whole_after_s,
        answers=dict(heard.answers),
        alerts=seen,
        problems=(*problems, *failed, *tally.problems),
    )


def _prometheus(place: Installation) -> AbstractContextManager[Prometheus]:
    nodes = place.addresses()
    ray = [f"{node}:{network.RAY_METRICS_PORT}" for node in (network.HEAD, *nodes)]
    return prometheus(
        place.folder / "prometheus",
        {
            "darkroom": [f"{node}:{METRICS_PORT}" for node in nodes],
            "ray": ray,
            "haproxy": [place.haproxy_metrics],
        },
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
                open_ones, (ids, [str(state.value) for state in FINAL])
            ).fetchone()
        return row == (0,) and accepted.keys() <= delivered_ids(place)

    try:
        eventually(left, "all requests end and their webhooks arrive", PATIENCE_S)
    except AssertionError as late:
        yield str(late)


def delivered_ids(place: Installation) -> set[str]:
    """Ids of requests whose webhook the receiver got."""
    return {json.loads(delivery.body)["request_id"] for delivery in place.receiver.received}
