"""Delivers webhooks: claims what is due, sends it, and writes down what became of it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from random import Random
from typing import Protocol, TypeVar

from serve_app.domain.errors import DarkroomError, DatabaseUnavailable, RequestNotFound
from serve_app.domain.ports import Clock
from serve_app.domain.webhook import Answer, Backlog, Channel, Claimed, Outbox
from serve_app.telemetry.logs import request_id
from serve_app.webhooks.channels import Channels
from serve_app.webhooks.retrying import again_after_s
from serve_app.webhooks.sending import Sender
from serve_app.webhooks.signing import Parcel

T = TypeVar("T")
log = logging.getLogger(__name__)

Compose = Callable[[Claimed], Awaitable[bytes]]
"""The body of a delivery, from its request. ``RequestNotFound``; any other error is met again."""

FIRST_TIMEOUT_S = 15.0
LATER_TIMEOUT_S = 120.0
"""As fal's."""

TEND_S = 10.0
AWAY_S = 30.0
"""After so long a body that could not be put together (storage was away, say) is tried again."""

CHANNELS_AT_ONCE = 200
PAGE_PAUSE_S = 0.02
"""Between two pages in which nothing could be sent: many channels that wait cost little."""

ACT_AGAIN_S = 0.5
ACTS = 40
"""So often a body is stored, and what became of it is written down, while the database is away:
about as long as a claim lasts. Given up after a 2xx, it is delivered twice."""


@dataclass(frozen=True, slots=True)
class Rules:
    """How long it is tried."""

    waits_s: Sequence[float]  # between the tries
    give_up_s: float  # after so long it is dead, however many tries it had
    look_s: float = 0.5  # between two looks for what is due


class Tally(Protocol):
    """Where it is counted."""

    def webhook(self, result: str) -> None:
        """A try, or the end of all: ``delivered``, ``failed`` (it is tried again), ``dead``."""
        ...

    def webhooks(self, backlog: Backlog) -> None: ...


class Courier:
    """One in each ingress process; they share the work by their claims."""

    def __init__(
        self,
        outbox: Outbox,
        compose: Compose,
        sender: Sender,
        clock: Clock,
        rules: Rules,
        tally: Tally,
    ) -> None:
        self._outbox = outbox
        self._compose = compose
        self._sender = sender
        self._clock = clock
        self._rules = rules
        self._tally = tally
        self._random = Random()  # noqa: S311 - jitter
        self._channels = Channels()
        self._after: Channel | None = None
        self._room = asyncio.Event()
        self._under_way: dict[asyncio.Task[None], Claimed] = {}
        self._loops: list[asyncio.Task[None]] = []

    def start(self) -> None:
        if not self._loops:
            looking = self._forever(self._round, self._rules.look_s, self._room)
            tending = self._forever(self._tend, TEND_S, asyncio.Event())
            self._loops = [asyncio.create_task(each) for each in (looking, tending)]

    async def aclose(self) -> None:
        """What is under way is given up, and is due again at once."""
        under_way = dict(self._under_way)
        for task in (*self._loops, *under_way):
            task.cancel()
        await asyncio.gather(*self._loops, *under_way, return_exceptions=True)
        self._loops = []
        for claimed in under_way.values():
            with suppress(DarkroomError):  # then its claim runs out
                await self._outbox.put_back(claimed, 0.0)

    async def _forever(
        self, chore: Callable[[], Awaitable[bool]], every_s: float, sooner: asyncio.Event
    ) -> None:
        """``chore`` says whether it has more to do at once; ``sooner`` ends the wait."""
        failing = False
        while True:
            sooner.clear()
            more = False
            try:
                more = await chore()
                failing = False
            except DarkroomError as error:
                if not failing:
                    log.warning("Webhooks wait: %s", error.message)
                failing = True
            except Exception:
                log.exception("Webhooks wait; it is tried again in %s s", every_s)
            if not more:
                with suppress(TimeoutError):
                    async with asyncio.timeout(every_s):
                        await sooner.wait()

    async def _round(self) -> bool:
        page = await self._outbox.channels(self._after, CHANNELS_AT_ONCE)
        more = len(page) == CHANNELS_AT_ONCE
        self._after = page[-1][0] if more else None
        due = [channel for channel, is_due in page if is_due]
        wanted = self._channels.choose(due, self._clock.monotonic())
        claimed = await self._outbox.claim(wanted) if wanted else ()
        for each in claimed:
            self._channels.left(each.channel)
            task = asyncio.create_task(self._deliver(each))
            self._under_way[task] = each
            task.add_done_callback(self._landed)
        if more and not claimed:
            await asyncio.sleep(PAGE_PAUSE_S)
        return more or bool(claimed)

    def _landed(self, task: asyncio.Task[None]) -> None:
        self._channels.back(self._under_way.pop(task).channel)
        self._room.set()

    async def _deliver(self, claimed: Claimed) -> None:
        request_id.set(claimed.request_id)
        try:
            body = await self._insist(lambda: self._body(claimed))
            if body is None:
                return
            timeout_s = LATER_TIMEOUT_S if claimed.tries else FIRST_TIMEOUT_S
            parcel = Parcel(claimed.id, claimed.request_id, claimed.tenant, body)
            answer = await self._sender.post(claimed.url, parcel, timeout_s)
            self._channels.heard(claimed.channel, answer, self._clock.monotonic())
            await self._insist(lambda: self._write_down(claimed, answer))
        except DarkroomError as error:
            # The claim runs out, and it comes again.
            log.warning("Webhook of request %s: %s", claimed.request_id, error.message)
        except Exception:
            log.exception("Webhook of request %s", claimed.request_id)

    async def _body(self, claimed: Claimed) -> bytes | None:
        if claimed.body is not None:
            return claimed.body
        try:
            return await self._outbox.keep_body(claimed, await self._compose(claimed))
        except RequestNotFound:
            return None  # deleted meanwhile, and its delivery with it
        except DatabaseUnavailable:
            raise
        except DarkroomError as error:
            log.warning("Webhook of request %s waits: %s", claimed.request_id, error.message)
            await self._outbox.put_back(claimed, AWAY_S)
            return None

    async def _insist(self, act: Callable[[], Awaitable[T]]) -> T:
        """Again and again while the database is away."""
        for left in reversed(range(ACTS)):
            try:
                return await act()
            except DatabaseUnavailable:
                if not left:
                    raise
                await asyncio.sleep(ACT_AGAIN_S)
        raise AssertionError("unreachable")

    async def _write_down(self, claimed: Claimed, answer: Answer) -> None:
        if answer.accepted:
            if await self._outbox.delivered(claimed, answer):
                self._tally.webhook("delivered")
            return
        chance = self._random.random()
        again_s = again_after_s(answer, claimed.tries + 1, self._rules.waits_s, chance)
        if await self._outbox.failed(claimed, answer, again_s):
            self._tally.webhook("dead" if again_s is None else "failed")
            if again_s is None:
                log.warning("Webhook of request %s is dead: %s", claimed.request_id, answer.error)

    async def _tend(self) -> bool:
        while buried := await self._outbox.give_up(self._rules.give_up_s):
            for _ in range(buried):
                self._tally.webhook("dead")
            log.warning("%s webhooks were not delivered in time", buried)
        self._tally.webhooks(await self._outbox.backlog())
        return False
