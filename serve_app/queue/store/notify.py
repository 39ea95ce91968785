"""How the ingress processes wake each other: NOTIFY after the commit, coalesced, and LISTEN.

Nothing depends on a notification to be right, only to be quick: whatever can be notified is also
looked at each second. NOTIFY inside a transaction serialises all commits (measured: a third of the
rate), so it is a small transaction of its own, and none is sent while no other process listens.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import psycopg

from serve_app.domain.errors import DatabaseUnavailable
from serve_app.domain.lease import Held, Signal, SignalKind
from serve_app.queue import wording
from serve_app.queue.database import CONNECT, Database

log = logging.getLogger(__name__)

CHANNEL = "darkroom"
LISTENERS = 0x6C697374  # advisory lock that every listener shares, so that they can be counted
COALESCE_S = 0.003
RECONNECT_S = (0.1, 0.5, 1.0, 2.0)
PER_MESSAGE = 100  # ids; a payload holds 8000 bytes

COUNT_LISTENERS = f"""
SELECT count(*) FROM pg_locks
WHERE locktype = 'advisory' AND classid = 0 AND objid = {LISTENERS}
  AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""
NOTIFY = f"SELECT pg_notify('{CHANNEL}', %(payload)s)"


@dataclass
class News:
    """What changed: requests, pools that have something queued, signals for replicas."""

    changed: set[str] = field(default_factory=set[str])
    pools: set[str] = field(default_factory=set[str])
    signals: set[Signal] = field(default_factory=set[Signal])

    def messages(self, sender: str) -> Iterator[str]:
        changed, signals = sorted(self.changed), list(self.signals)
        for start in range(0, max(len(changed), len(signals), 1), PER_MESSAGE):
            part = slice(start, start + PER_MESSAGE)
            yield wording.compact(
                {
                    "from": sender,
                    "changed": [] if signals[part] else changed[part],
                    "pools": sorted(self.pools) if start == 0 else [],
                    "signals": [
                        [each.held.request_id, each.held.attempt, each.kind]
                        for each in signals[part]
                    ],
                }
            )
            if signals[part] and changed[part]:
                yield wording.compact(
                    {"from": sender, "changed": changed[part], "pools": [], "signals": []}
                )


class Wakeups:
    """``on_news`` gets what others tell; ``on_gap`` is called when something may be missed."""

    def __init__(self, database: Database, ingress_id: str) -> None:
        self._database = database
        self._ingress_id = ingress_id
        self._on_news: Callable[[News], None] = lambda _: None
        self._on_gap: Callable[[], None] = lambda: None
        self._alone = False
        self._pending = News()
        self._something = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self.listening = False

    def start(self, on_news: Callable[[News], None], on_gap: Callable[[], None]) -> None:
        self._on_news, self._on_gap = on_news, on_gap
        self._tasks = [asyncio.create_task(self._listen()), asyncio.create_task(self._send())]

    async def aclose(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []

    def tell(
        self,
        changed: Iterable[str] = (),
        pools: Iterable[str] = (),
        signals: Iterable[Signal] = (),
    ) -> None:
        """Tell the other processes, soon. Call it after the commit."""
        if self._alone:
            return
        self._pending.changed.update(changed)
        self._pending.pools.update(pools)
        self._pending.signals.update(signals)
        self._something.set()

    async def look_round(self) -> None:
        """Find out whether anybody else listens."""
        rows = await self._database.rows(COUNT_LISTENERS)
        self._alone = self.listening and int(rows[0][0]) <= 1

    async def _send(self) -> None:
        while True:
            await self._something.wait()
            self._something.clear()
            news, self._pending = self._pending, News()
            try:
                for payload in news.messages(self._ingress_id):
                    await self._database.rows(NOTIFY, {"payload": payload})
            except DatabaseUnavailable as error:
                log.debug("A notification was not sent; the others will see by looking: %s", error)
            await asyncio.sleep(COALESCE_S)

    async def _listen(self) -> None:
        failures = 0
        while True:
            try:
                async with await psycopg.AsyncConnection.connect(
                    self._database.conninfo, **CONNECT
                ) as connection:
                    failures = 0
                    await self._hear(connection)
            except (psycopg.Error, OSError) as error:
                if failures == 0:
                    log.warning("Not listening to the other ingress replicas: %s", error)
            finally:
                self.listening = False
            await asyncio.sleep(RECONNECT_S[min(failures, len(RECONNECT_S) - 1)])
            failures += 1

    async def _hear(self, connection: psycopg.AsyncConnection) -> None:
        await connection.execute("SELECT pg_advisory_lock_shared(%s::bigint)", (LISTENERS,))
        await connection.execute(f"LISTEN {CHANNEL}")
        self.listening = True
        self._alone = False
        self._something.set()  # says, with an empty message, that there is one more
        self._on_gap()
        async for notify in connection.notifies():
            self._heard(notify.payload)

    def _heard(self, payload: str) -> None:
        message = json.loads(payload)
        if message["from"] == self._ingress_id:
            return
        self._alone = False
        signals = {Signal(SignalKind(kind), Held(id_, n)) for id_, n, kind in message["signals"]}
        self._on_news(News(set(message["changed"]), set(message["pools"]), signals))
