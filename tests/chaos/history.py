"""What clients and replicas saw, and whether the database agrees with it."""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import psycopg
from psycopg.rows import dict_row

from serve_app.domain.lease import Lease, LeaseKey
from serve_app.domain.request import TRANSITIONS, Request, State
from serve_app.queue.request_log import LINES

LOG = f"""
SELECT x.id AS request_id, l.* FROM requests x
CROSS JOIN LATERAL ({LINES.format(id="x.id", after="0")}) l
"""
FINAL = frozenset(state for state in State if state.final)
"""The ends of an attempt that have these names are the end of its request."""


@dataclass(frozen=True)
class Tally:
    """What a check found. ``problems``: a sentence each."""

    accepted: int = 0
    lost: int = 0
    ended_twice: int = 0
    billed_twice: int = 0
    problems: tuple[str, ...] = ()

    def __add__(self, other: Tally) -> Tally:
        return Tally(
            self.accepted + other.accepted,
            self.lost + other.lost,
            self.ended_twice + other.ended_twice,
            self.billed_twice + other.billed_twice,
            self.problems + other.problems,
        )


@dataclass
class History:
    """Written while things break, checked when they are whole again."""

    accepted: set[str] = field(default_factory=set[str])  # answered with an id
    seen: list[Request] = field(default_factory=list[Request])  # final ones, as clients saw them
    leases: dict[str, list[LeaseKey]] = field(default_factory=lambda: defaultdict(list))
    finished: list[LeaseKey] = field(default_factory=list[LeaseKey])  # whose success was accepted
    server_crashed: bool = False
    """The database lost commits that nobody waits for, leases among them: an attempt number may
    have been given away again, under another nonce."""

    def note_lease(self, lease: Lease) -> None:
        self.leases[lease.request_id].append(lease.key)

    def check(
        self,
        connection: psycopg.Connection[Any],
        objects: Mapping[str, bytes],
        *,
        others: bool = True,
    ) -> Tally:
        """``objects``: what lies in storage, by key. Every request must have ended by now, those
        also that were never accepted here, unless those ``others`` are somebody else's."""
        records = _Found(connection)
        seen, finished = self._seen_by_id(), self._finished_by_id()
        lost, twice, billed = Counter[str](), Counter[str](), Counter[str]()
        problems: list[str] = []
        for id_ in sorted(self.accepted | (records.requests.keys() if others else set())):
            request = records.requests.get(id_)
            if request is None or request["state"] not in FINAL:
                state = "is not in the database" if request is None else f"is {request['state']}"
                lost[id_] += 1
                problems.append(f"{id_} was accepted and {state}.")
                continue
            ends = [*records.ended_twice(id_), *_seen_otherwise(request, seen[id_], finished[id_])]
            bills = [*records.billed_wrongly(id_)]
            twice[id_] += bool(ends)
            billed[id_] += bool(bills)
            problems += [*ends, *bills, *self._fences(id_), *records.oddities(id_, objects)]
        if others:
            problems += records.litter(objects)
            billed["no one's"] += len(records.usage.keys() - records.requests.keys())
        return Tally(
            len(self.accepted), lost.total(), twice.total(), billed.total(), tuple(problems)
        )

    def _seen_by_id(self) -> Mapping[str, list[Request]]:
        by_id: defaultdict[str, list[Request]] = defaultdict(list)
        for request in self.seen:
            by_id[request.id].append(request)
        return by_id

    def _finished_by_id(self) -> Mapping[str, set[LeaseKey]]:
        by_id: defaultdict[str, set[LeaseKey]] = defaultdict(set)
        for lease in self.finished:
            by_id[lease.request_id].add(lease)
        return by_id

    def _fences(self, id_: str) -> Iterator[str]:
        # In any order: the answer to a leasing may be late.
        leases = self.leases.get(id_, [])
        attempts = [lease.attempt for lease in leases]
        fences = leases if self.server_crashed else attempts
        if len(fences) != len(set(fences)):
            yield f"{id_} was leased as attempts {attempts}, one of them twice."


def _seen_otherwise(
    stored: Mapping[str, Any], seen: Iterable[Request], finished: Set[LeaseKey]
) -> Iterator[str]:
    for request in seen:
        if request.state != stored["state"]:
            yield f"{request.id} was seen as {request.state} and is {stored['state']}."
    if len(finished) > 1:
        attempts = sorted(lease.attempt for lease in finished)
        id_ = next(iter(finished)).request_id
        yield f"{id_}: the outcomes of attempts {attempts} were all accepted."


def record_tally(tally: Tally, file: Path | None) -> Tally:
    """``tally``, which must be of no problems, and in ``file`` for the sum of all."""
    if file is not None:
        with file.open("a") as lines:
            lines.write(json.dumps(asdict(tally)) + "\n")
    assert not tally.problems, "\n".join(tally.problems)
    return tally


class _Found:
    """The database's side."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        cursor = connection.cursor(row_factory=dict_row)

        def by_request(table: str, order: str) -> dict[str, list[Mapping[str, Any]]]:
            rows = defaultdict[str, list[Mapping[str, Any]]](list)
            for row in cursor.execute(f"SELECT * FROM {table} ORDER BY {order}"):  # type: ignore[arg-type]
                rows[str(row["request_id"])].append(row)
            return rows

        rows = cursor.execute("SELECT * FROM requests").fetchall()
        self.requests = {str(row["id"]): row for row in rows}
        self.attempts = by_request("attempts", "attempt")
        self.events = by_request(f"({LOG}) l", "sequence")
        self.usage = by_request("usage", "at")
        self.artifacts = by_request("artifacts", "key")
        self.unwanted = {
            row["key"] for row in cursor.execute("SELECT key FROM jobs WHERE kind = 'file'")
        }
        self.webhooks = by_request("webhook_deliveries", "created_at")

    def litter(self, objects: Mapping[str, bytes]) -> Iterator[str]:
        """Every object is a file of an outcome, or noted as unwanted."""
        known = {row["key"] for rows in self.artifacts.values() for row in rows} | self.unwanted
        for key in sorted(objects.keys() - known):
            yield f"{key} lies in storage, and no one will ever delete it."

    def ended_twice(self, id_: str) -> Iterator[str]:
        ends = [event["state"] for event in self.events[id_] if event["state"] in FINAL]
        if len(ends) != 1:
            yield f"{id_} has the ends {ends} in its log."
        ends = [attempt["attempt"] for attempt in self.attempts[id_] if attempt["ended"] in FINAL]
        request = self.requests[id_]
        if request["state"] == State.SUCCEEDED and request["attempt"]:
            ends.append(request["attempt"])
        if len(ends) > 1:
            yield f"{id_} was ended by attempts {ends}."

    def billed_wrongly(self, id_: str) -> Iterator[str]:
        request, lines = self.requests[id_], self.usage.get(id_, [])
        if [line["state"] for line in lines] != [request["state"]]:
            yield f"{id_} is {request['state']} and has {len(lines)} usage lines."
        elif lines[0]["attempt"] != request["attempt"]:
            yield f"{id_} ended with attempt {request['attempt']}, not {lines[0]['attempt']}."

    def oddities(self, id_: str, objects: Mapping[str, bytes]) -> Iterator[str]:
        yield from self._attempts(id_)
        yield from self._log(id_)
        yield from self._files(id_, objects)
        yield from self._sharing(id_)
        request = self.requests[id_]
        expected = int(request["webhook_url"] is not None)
        if len(self.webhooks.get(id_, [])) != expected:
            yield f"{id_} has {len(self.webhooks[id_])} webhook rows, not {expected}."

    def _attempts(self, id_: str) -> Iterator[str]:
        request, attempts = self.requests[id_], self.attempts[id_]
        # One that succeeded is in its request.
        failed = request["attempt"] - (request["state"] == State.SUCCEEDED)
        if [attempt["attempt"] for attempt in attempts] != list(range(1, failed + 1)):
            yield f"{id_} is at attempt {request['attempt']} and has {len(attempts)} others."
        # Not by their times: each is that at which its transaction began.
        started = sum(event["state"] == State.RUNNING for event in self.events[id_])
        if started != request["attempt"]:
            yield f"{id_} was started {started} times and is at attempt {request['attempt']}."
        bad = sum(attempt["ended"] in {"retry", "died", "lost"} for attempt in attempts)
        if request["failures"] > bad:
            yield f"{id_} counts {request['failures']} failures of {bad}."

    def _log(self, id_: str) -> Iterator[str]:
        lines = self.events[id_]
        if [line["sequence"] for line in lines] != list(range(1, len(lines) + 1)):
            yield f"{id_} has gaps in its log."
        states = [State(line["state"]) for line in lines if line["state"]]
        for before, after in pairwise(states):
            if after not in TRANSITIONS[before]:
                yield f"{id_} went from {before} to {after}."

    def _sharing(self, id_: str) -> Iterator[str]:
        """A request that was given the outcome of another made nothing and pays nothing."""
        request = self.requests[id_]
        if request["follows"] is not None:
            yield f"{id_} has ended and still follows."
        if request["reuses"] is None:
            return
        if request["state"] != State.SUCCEEDED or request["attempt"]:
            yield f"{id_} was given an outcome and is {request['state']}."
        if any(usage["units"] or usage["run_s"] for usage in self.usage.get(id_, [])):
            yield f"{id_} was given its outcome and pays for it."
        maker = self.requests.get(str(request["reuses"]))
        if maker is None:
            return
        if maker["state"] != State.SUCCEEDED or maker["reuses"] is not None:
            yield f"{id_} was given the outcome of {maker['id']}, which made none."
        if maker["outcome"]["artifacts"] != request["outcome"]["artifacts"]:
            yield f"{id_} has other files than {maker['id']}, which made them."

    def _files(self, id_: str, objects: Mapping[str, bytes]) -> Iterator[str]:
        request = self.requests[id_]
        maker = str(request["reuses"] or id_)
        rows = self.artifacts.get(maker, [])
        named = {
            artifact["key"]: artifact["sha256"]
            for artifact in request["outcome"].get("artifacts", [])
        }
        if named.keys() != {row["key"] for row in rows}:
            yield f"{id_} names {len(named)} files and has {len(rows)}."
        made_in = self.requests[maker]["attempt"] if maker in self.requests else None
        if any(row["attempt"] != made_in for row in rows):
            yield f"{id_} has a file of another attempt."
        for key, digest in named.items():
            if hashlib.sha256(objects.get(key, b"")).hexdigest() != digest:
                yield f"{id_}: its file {key} cannot be read as it was made."
