"""Quarantines of nodes that lose attempts again and again.

While its pool has a ready replica on another node, a replica on a quarantined node gets one request
at a time, and the first one only after a rest. A request that succeeds there ends the quarantine;
one that is lost too makes the next rest longer. The term of a replica that loses attempts again and
again ends: another process may do better. Not if it says itself that an app's process or its device
has failed: the one is replaced, and the other fails its health check.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from serve_app.domain.lease import Ask, Death
from serve_app.domain.ports import Clock
from serve_app.postgres.database import Database
from serve_app.queue.state.terms import Terms
from serve_app.queue.store import messages
from serve_app.telemetry.queue_metrics import QueueMeter

log = logging.getLogger(__name__)

WINDOW = "15 minutes"
"""Losses that are older count no more."""
KEEP = "1 day"
"""Time for which operators see a quarantine after its end."""
JUDGE_EVERY_S = 1.0
AT_ONCE_S = 10.0
"""Losses of a node within this time are one: all of its requests end together when it fails."""
TOLERATED = 2
"""Losses within ``WINDOW`` that end nothing."""
FIRST_REST_S, LONGEST_REST_S = 30, 600

GIVEN_UP = Death("it lost requests again and again", by_itself=False)


class Loss(NamedTuple):
    """An attempt that ended because its replica, its node or the way to it failed."""

    node: str
    actor_id: str | None  # None: the replica itself says what died under it, and goes on
    request_id: str
    at: float  # Unix time


def times_lost(losses: Iterable[Loss], party: Callable[[Loss], str]) -> Mapping[str, int]:
    """How often each party, a node or an actor, lost attempts, all at once counted once.

    A request that was lost by two of them accuses itself, and none of them; one that was lost by
    the same one several times accuses it once.
    """
    by_request: defaultdict[str, set[str]] = defaultdict(set)
    for loss in losses:
        by_request[loss.request_id].add(party(loss))
    by_party: defaultdict[str, list[Loss]] = defaultdict(list)
    for loss in sorted(losses, key=lambda entry: entry.at):
        if len(by_request[loss.request_id]) == 1:
            by_party[party(loss)].append(loss)
    return {
        name: min(_occasions(own), len({lost.request_id for lost in own}))
        for name, own in by_party.items()
    }


def _occasions(losses: Sequence[Loss]) -> int:
    occasions, began = 0, float("-inf")
    for loss in losses:
        if loss.at > began + AT_ONCE_S:
            occasions, began = occasions + 1, loss.at
    return occasions


LOSSES = f"""
-- name: read_losses
SELECT a.node, CASE WHEN a.ended <> 'died' THEN a.actor_id END, a.request_id::text,
       extract(epoch FROM a.ended_at)::double precision
FROM attempts a LEFT JOIN quarantines q ON q.node = a.node
WHERE a.node IS NOT NULL AND a.ended_at > now() - interval '{WINDOW}'
  AND a.ended_at > coalesce(q.released_at, '-infinity')
ORDER BY a.ended_at DESC LIMIT 2000
"""
WRITE = f"""
-- name: write_quarantines
WITH forgotten AS (
    DELETE FROM quarantines
    WHERE released_at < now() - interval '{KEEP}'
       OR (released_at IS NULL AND last_loss_at < now() - interval '1 hour')
)
INSERT INTO quarantines AS q (node, losses, last_loss_at)
SELECT node, losses, to_timestamp(at)
FROM json_to_recordset(%(found)s::json) AS x(node text, losses integer, at double precision)
ORDER BY node
ON CONFLICT (node) DO UPDATE SET
    losses = excluded.losses,
    last_loss_at = excluded.last_loss_at,
    since = CASE WHEN q.released_at IS NULL THEN q.since ELSE now() END,
    released_at = NULL
-- Losses that were read before a release do not count after it.
WHERE coalesce(q.released_at, q.last_loss_at) < excluded.last_loss_at
RETURNING node, losses, since = now()
"""
REST_S = f"least({LONGEST_REST_S}, {FIRST_REST_S} * 2 ^ greatest(0, losses - {TOLERATED + 1}))"
READ = f"""
-- name: read_quarantines
WITH held AS (
    SELECT node, losses, since, last_loss_at FROM quarantines WHERE released_at IS NULL
)
SELECT h.node, h.losses,
       extract(epoch FROM h.last_loss_at - now())::double precision + {REST_S},
       ARRAY(SELECT replica_id FROM replicas r WHERE r.node = h.node),
       ARRAY(SELECT pool FROM (SELECT DISTINCT pool FROM replicas) p
             WHERE has_ready_elsewhere(pool, ARRAY(SELECT node FROM held)))
FROM held h
"""
RELEASE = """
-- name: release_quarantine
UPDATE quarantines SET released_at = now()
WHERE node = %(node)s AND released_at IS NULL
  AND since < now() - make_interval(secs => %(held_s)s)
RETURNING node
"""


@dataclass(frozen=True, slots=True)
class Quarantine:
    """A node that is in quarantine, as this process knows it."""

    node: str
    losses: int
    rests_until: float  # by this process's clock
    replicas: frozenset[str]
    spared: frozenset[str]  # pools that have a ready replica on another node


class Quarantines:
    """Known to all processes within a second; one of them decides."""

    def __init__(self, database: Database, terms: Terms, clock: Clock, metrics: QueueMeter) -> None:
        self._database = database
        self._terms = terms
        self._clock = clock
        self._metrics = metrics
        self._known: Mapping[str, Quarantine] = {}

    async def judge(self) -> None:
        """Put nodes into quarantine, and end the terms of replicas, by what they have lost."""
        losses = [Loss(*row) for row in await self._database.rows(LOSSES)]
        nodes = _too_many(losses, lambda loss: loss.node)
        if nodes or self._known:
            last = {node: max(loss.at for loss in losses if loss.node == node) for node in nodes}
            records = [
                {"node": node, "losses": times, "at": last[node]} for node, times in nodes.items()
            ]
            rows = await self._database.rows(WRITE, {"found": messages.compact(records)})
            for node, times, new in rows:
                log.warning(
                    "Node %s is %s: it lost attempts %s times. Requests run elsewhere; one at a "
                    "time tries it.",
                    node,
                    "quarantined" if new else "still quarantined",
                    times,
                )
        # An app that dies again and again has a new process each time. It would end a replica, with
        # the requests of all other apps on it, which lost none.
        own = [loss for loss in losses if loss.actor_id is not None]
        if actors := _too_many(own, lambda loss: str(loss.actor_id)):
            await self._terms.end(dict.fromkeys(actors, GIVEN_UP))

    async def refresh(self) -> None:
        """Read the quarantines again."""
        now = self._clock.monotonic()
        rows = await self._database.rows(READ)
        self._known = {
            node: Quarantine(node, losses, now + rest_s, frozenset(replicas), frozenset(pools))
            for node, losses, rest_s, replicas, pools in rows
        }
        self._metrics.record_quarantines(
            {node: quarantine.losses for node, quarantine in self._known.items()}
        )

    def limit_slots(self, ask: Ask) -> Ask:
        """The poll with the slots that may be used: on a quarantined node, one after its rest."""
        quarantine = self._known.get(ask.node)
        if quarantine is None or ask.pool not in quarantine.spared:
            return ask
        tries = not ask.leases and self._clock.monotonic() >= quarantine.rests_until
        return replace(ask, slots=min(ask.slots, 1 if tries else 0))

    def node_of(self, replica_id: str | None) -> str:
        """Quarantined node of a replica; empty: its node is in none."""
        return next(
            (node for node, quarantine in self._known.items() if replica_id in quarantine.replicas),
            "",
        )

    async def release(self, node: str, held_s: float) -> None:
        """End the quarantine of a node if a request that was leased during it, ``held_s`` ago, has
        succeeded there."""
        if await self._database.rows(RELEASE, {"node": node, "held_s": held_s}):
            log.warning("Node %s is no longer quarantined: a request succeeded there.", node)
            await self.refresh()


def _too_many(losses: Sequence[Loss], party: Callable[[Loss], str]) -> Mapping[str, int]:
    lost = times_lost(losses, party)
    return {name: times for name, times in sorted(lost.items()) if times > TOLERATED}
