"""Notifications between ingress processes: NOTIFY after the commit, batched, and LISTEN.

Notifications make changes visible sooner; correctness does not depend on them, because every
process also looks each second. NOTIFY inside a transaction serialises all commits (measured: a
third of the rate). So it is sent in a small transaction of its own, and only while another process
listens.

What changes rarely and is held in memory, such as the catalogue, is read again by the others before
the call that changed it is answered: the client's next call may go to any of them.
"""

from __future__ import annotations

import asyncio
import json
import logging
import uuid
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass, field

import psycopg
from prometheus_client import CollectorRegistry

from serve_app.domain.errors import DatabaseUnavailable
from serve_app.domain.lease import LeaseKey, Signal, SignalKind
from serve_app.domain.ports import Clock
from serve_app.postgres.database import SILENT_S, AnswerLimit, Database, settings
from serve_app.queue.store.messages import compact
from serve_app.telemetry.queue_metrics import QueueMeter

log = logging.getLogger(__name__)

CHANNEL = "darkroom"
LISTENERS = 0x6C697374  # advisory lock shared by all listeners, so that they can be counted
COALESCE_S = 0.003
RECONNECT_S = (0.1, 0.5, 1.0, 2.0)
PROBE_S = 3.0
PER_MESSAGE = 100  # ids; a payload holds 8000 bytes
FREED_PER_MESSAGE = 25  # names, beside the ids
REFRESH_WAIT_S = 2.0
"""How long a change waits for the other processes. By then they have looked themselves."""

COUNT_LISTENERS = f"""
-- name: count_listeners
SELECT count(*) FROM pg_locks
WHERE locktype = 'advisory' AND classid = 0 AND objid = {LISTENERS}
  AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""
NOTIFY = f"-- name: notify\nSELECT pg_notify('{CHANNEL}', %(payload)s)"


@dataclass
class Notification:
    """Changes to announce: requests, pools that have queued requests, signals for replicas, and
    tenants and endpoints, with their kind, that run less than before and have a limit on that.
    """

    changed: set[str] = field(default_factory=set[str])
    pools: set[str] = field(default_factory=set[str])
    signals: set[Signal] = field(default_factory=set[Signal])
    freed: set[tuple[str, str]] = field(default_factory=set[tuple[str, str]])
    since: float | None = None  # Unix time of the first change

    def messages(self, sender: str) -> Iterator[str]:
        """The payloads. Before a receiver leases, it knows all that was freed: the pools come
        last.
        """

        def payload(**part: object) -> str:
            return _payload(sender, at=self.since, **part)

        changed, signals, freed = sorted(self.changed), list(self.signals), sorted(self.freed)
        for start in range(FREED_PER_MESSAGE, len(freed), FREED_PER_MESSAGE):
            yield payload(freed=freed[start : start + FREED_PER_MESSAGE])
        first = {"pools": sorted(self.pools), "freed": freed[:FREED_PER_MESSAGE]}
        for start in range(0, max(len(changed), len(signals), 1), PER_MESSAGE):
            part = slice(start, start + PER_MESSAGE)
            signalled = [
                [
                    signal.lease_key.request_id,
                    signal.lease_key.attempt,
                    signal.lease_key.nonce,
                    signal.kind,
                ]
                for signal in signals[part]
            ]
            yield payload(changed=[] if signalled else changed[part], signals=signalled, **first)
            if signalled and changed[part]:
                yield payload(changed=changed[part])
            first = {}


def _payload(sender: str, **part: object) -> str:
    nothing = {"at": None, "changed": [], "pools": [], "signals": [], "freed": []}
    return compact({"from": sender, **nothing, **part})


@dataclass
class _Refreshing:
    """A refresh that this process waits for."""

    others: int
    done: set[str] = field(default_factory=set[str])  # names of the processes that have done it
    all_done: asyncio.Event = field(default_factory=asyncio.Event)

    def note(self, sender: str) -> None:
        self.done.add(sender)
        if len(self.done) >= self.others:
            self.all_done.set()


class Notifier:
    """Send and receive notifications.

    ``on_notification`` is called with notifications from other processes, ``on_gap`` when some may
    have been missed. ``on_refresh`` reads again what this process holds in memory and others have
    changed.
    """

    def __init__(
        self,
        database: Database,
        ingress_id: str,
        clock: Clock,
        metrics: QueueMeter | None = None,
    ) -> None:
        """``metrics``: None for none that are read."""
        self._database = database
        self._clock = clock
        self._metrics = metrics or QueueMeter(CollectorRegistry())
        self._ingress_id = ingress_id
        self._on_notification: Callable[[Notification], None] = lambda _: None
        self._on_gap: Callable[[], None] = lambda: None
        self._alone = False
        self._heard = False  # of another process, since the last count began
        self._pending = Notification()
        self._something = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._refreshing: dict[str, _Refreshing] = {}
        self._refreshes: set[asyncio.Task[None]] = set()  # that others have asked for
        self.on_refresh: Callable[[], Awaitable[None]] = _nothing
        self.listening = False

    def start(
        self, on_notification: Callable[[Notification], None], on_gap: Callable[[], None]
    ) -> None:
        self._on_notification, self._on_gap = on_notification, on_gap
        self._tasks = [asyncio.create_task(self._listen()), asyncio.create_task(self._send())]

    async def aclose(self) -> None:
        tasks = [*self._tasks, *self._refreshes]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._tasks = []

    def notify(
        self,
        changed: Iterable[str] = (),
        pools: Iterable[str] = (),
        signals: Iterable[Signal] = (),
        freed: Iterable[tuple[str, str]] = (),
    ) -> None:
        """Notify the other processes soon. Call it after the commit."""
        if self._alone:
            return
        if self._pending.since is None:
            self._pending.since = self._clock.now().timestamp()
        self._pending.changed.update(changed)
        self._pending.pools.update(pools)
        self._pending.signals.update(signals)
        self._pending.freed.update(freed)
        self._something.set()

    async def refresh_others(self) -> None:
        """Have the other processes refresh, and wait until they have, at most ``REFRESH_WAIT_S``.
        Call it after the commit."""
        if self._alone:
            return
        id_ = uuid.uuid4().hex
        try:
            others = int(await self._database.value(COUNT_LISTENERS)) - self.listening
            if others <= 0:
                return
            refreshing = self._refreshing[id_] = _Refreshing(others)
            await self._send_now(refresh=id_)
            await asyncio.wait_for(refreshing.all_done.wait(), REFRESH_WAIT_S)
        except (TimeoutError, DatabaseUnavailable):
            log.info("Not all ingress replicas have said that they see a change.")
        finally:
            self._refreshing.pop(id_, None)

    async def _refresh(self, id_: str) -> None:
        """Refresh as another process asks, and tell it."""
        try:
            await self.on_refresh()
            await self._send_now(refreshed=id_)
        except DatabaseUnavailable as error:
            log.debug("What another process has changed is seen later: %s", error)
        except Exception:
            log.exception("What another process has changed is seen later.")

    async def _send_now(self, **part: object) -> None:
        await self._database.rows(NOTIFY, {"payload": _payload(self._ingress_id, **part)})
        self._metrics.notification_sent()

    async def count_listeners(self) -> None:
        """Check for other listeners. One that was heard meanwhile came after the count."""
        self._heard = False
        listeners = await self._database.value(COUNT_LISTENERS)
        self._alone = self.listening and int(listeners) <= 1 and not self._heard

    async def _send(self) -> None:
        while True:
            await self._something.wait()
            self._something.clear()
            notification, self._pending = self._pending, Notification()
            try:
                for payload in notification.messages(self._ingress_id):
                    await self._database.rows(NOTIFY, {"payload": payload})
                    self._metrics.notification_sent()
            except DatabaseUnavailable as error:
                self._metrics.notification_lost()
                log.debug(
                    "A notification was not sent; other processes see the change later: %s",
                    error,
                )
            except Exception:
                # An error that ended this task would delay every later change for good.
                self._metrics.notification_lost()
                log.exception("A notification was not sent; other processes see the change later.")
            await asyncio.sleep(COALESCE_S)

    async def _listen(self) -> None:
        failures = 0
        while True:
            try:
                conninfo = self._database.conninfo
                async with await psycopg.AsyncConnection.connect(
                    conninfo, **settings(conninfo)
                ) as connection:
                    failures = 0
                    await self._receive(connection)
            except (psycopg.Error, OSError) as error:
                if failures == 0:
                    log.warning(
                        "Not listening to the other ingress replicas; trying again: %s", error
                    )
            except Exception:
                # As in _send: without this task, changes of others are seen later for good.
                log.exception("Not listening to the other ingress replicas; trying again.")
            finally:
                self.listening = False
            await asyncio.sleep(RECONNECT_S[min(failures, len(RECONNECT_S) - 1)])
            failures += 1

    async def _receive(self, connection: psycopg.AsyncConnection) -> None:
        async with AnswerLimit(connection, SILENT_S):
            await connection.execute("SELECT pg_advisory_lock_shared(%s::bigint)", (LISTENERS,))
            await connection.execute(f"LISTEN {CHANNEL}")
        self.listening = True
        self._alone = False
        self._something.set()  # announces this listener by an empty message
        self._on_gap()
        while True:
            async for notify in connection.notifies(timeout=PROBE_S):
                self._on_payload(notify.payload)
            # A listener sends nothing, so only this finds out that its connection is silent.
            async with AnswerLimit(connection, SILENT_S):
                await connection.execute("SELECT 1")

    def _on_payload(self, payload: str) -> None:
        message = json.loads(payload)
        if message["from"] == self._ingress_id:
            return
        self._alone, self._heard = False, True
        # A listener announces itself without a change; versions before send no time.
        at = message.get("at")
        self._metrics.notification_received(
            None if at is None else self._clock.now().timestamp() - at
        )
        if (asked := message.get("refresh")) is not None:
            task = asyncio.create_task(self._refresh(asked))
            self._refreshes.add(task)
            task.add_done_callback(self._refreshes.discard)
        if (refreshing := self._refreshing.get(message.get("refreshed", ""))) is not None:
            refreshing.note(message["from"])
        signals = {Signal(SignalKind(kind), LeaseKey(*key)) for *key, kind in message["signals"]}
        # Versions before send no `freed`: what they end is seen by the next look.
        freed = {(kind, name) for kind, name in message.get("freed", [])}
        self._on_notification(
            Notification(set(message["changed"]), set(message["pools"]), signals, freed)
        )


async def _nothing() -> None:
    """The refresh of a process that holds nothing."""
