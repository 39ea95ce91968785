"""What an operator does under load, and what became of the requests."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Set
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from subprocess import SubprocessError

import psycopg

from tests.bad_days.clients import Clients
from tests.bad_days.day import delivered_ids
from tests.chaos.history import FINAL, History
from tests.cluster.darkroom import eventually
from tests.operations.site import WITHIN_S, Site

FOLLOWERS, SUBMITTERS = 3, 3
AFTER_S = 3.0
ENDED = [state.value for state in FINAL]


@dataclass(frozen=True)
class Outcome:
    """A row of the table. Seconds are upper bounds: they include what the machine was slow at."""

    scenario: str
    date: str
    accepted: int
    lost: int
    failed: int
    ended_twice: int
    billed_twice: int
    interrupted: int  # attempts that ended without being counted
    failures: int  # attempts that were counted
    longest_gap_s: float | None = None
    answers: dict[str, int] = field(default_factory=dict[str, int])  # that were no success
    checked: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    logged: dict[str, int] = field(default_factory=dict[str, int])
    """Errors and warnings in the logs, for a reader; in the file of the results only."""

    @property
    def good(self) -> bool:
        return not (self.problems or self.lost or self.failed)


def under_load(site: Site, scenario: str, act: Callable[[Site], Iterable[str]]) -> Outcome:
    """Do ``act`` while clients submit and follow requests, and compare all of them. ``act`` says
    what it has checked; what it finds wrong it raises."""
    place = site.place
    checked: list[str] = []
    problems: list[str] = []
    logged = site.count_log_problems()
    with Clients(place.nodes.port, place.receiver.url(), FOLLOWERS, SUBMITTERS) as clients:
        heard = clients.heard
        eventually(lambda: len(heard.accepted_at) >= FOLLOWERS, "requests are accepted", WITHIN_S)
        began = time.monotonic()
        try:
            checked.extend(act(site))
            eventually(place.is_whole, "all is whole again", WITHIN_S)
        except (AssertionError, OSError, SubprocessError, psycopg.Error) as error:
            problems.append(repr(error))
        time.sleep(AFTER_S)
        ended = time.monotonic()
    accepted = set(heard.accepted_at)
    if forgotten := {
        request_id
        for request_id, at in heard.accepted_at.items()
        if site.may_be_lost(request_id, at)
    }:
        stored = stored_ids(site)
        checked.append(f"{len(forgotten - stored)} of {len(forgotten)} that it may forget are gone")
        accepted -= forgotten - stored
    final = [message for message in heard.final if not any(id_ in message for id_ in forgotten)]
    outcome = compare(site, scenario, accepted)
    return replace(
        outcome,
        longest_gap_s=round(heard.longest_gap_s(began, ended), 1),
        answers=dict(heard.answers),
        checked=tuple(checked),
        problems=(*problems, *final, *outcome.problems),
        logged=dict(site.count_log_problems() - logged),
    )


def compare(site: Site, scenario: str, accepted: Set[str]) -> Outcome:
    """Wait until all that was ``accepted`` has ended, and compare it with the database, the files,
    the usage and the webhooks that arrived."""
    place, ids = site.place, sorted(accepted)
    late: list[str] = []
    try:
        eventually(lambda: _ended(site, ids), "all requests end, webhooks arrive", WITHIN_S)
    except AssertionError as error:
        late = [str(error)]
    if missing := accepted - delivered_ids(place):
        late.append(f"{len(missing)} webhooks did not arrive, such as that of {min(missing)}.")
    history = History(accepted=set(accepted))
    with psycopg.connect(place.conninfo) as connection:
        tally = history.check(connection, place.objects(), others=False)
        rows = connection.execute(
            "SELECT state, failures FROM requests WHERE id::text = ANY(%s)", (ids,)
        ).fetchall()
        ends = connection.execute(
            "SELECT ended FROM attempts WHERE request_id::text = ANY(%s)", (ids,)
        ).fetchall()
    return Outcome(
        scenario=scenario,
        date=datetime.now(UTC).date().isoformat(),
        accepted=tally.accepted,
        lost=tally.lost,
        failed=Counter(state for state, _ in rows)["failed"],
        ended_twice=tally.ended_twice,
        billed_twice=tally.billed_twice,
        interrupted=sum(end == "interrupted" for (end,) in ends),
        failures=sum(failures for _, failures in rows),
        problems=(*late, *tally.problems),
    )


def stored_ids(site: Site) -> set[str]:
    """Ids of all requests in the database."""
    with psycopg.connect(site.place.conninfo) as connection:
        return {id_ for (id_,) in connection.execute("SELECT id::text FROM requests")}


def _ended(site: Site, ids: list[str]) -> bool:
    """True if all have ended whose rows are there, and their webhooks have arrived."""
    with psycopg.connect(site.place.conninfo) as connection:
        running = connection.execute(
            "SELECT 1 FROM requests WHERE id::text = ANY(%s) AND NOT state::text = ANY(%s) LIMIT 1",
            (ids, ENDED),
        ).fetchall()
    return not running and delivered_ids(site.place).issuperset(ids)
