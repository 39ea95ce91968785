"""Tells a client's server what happens to its request until that ends. Nothing of it is stored, and
nothing is sent twice: what is owed for certain is the courier's.

The process that took a request in follows it. What comes of one request comes in order, one call at
a time, and a call that is under way when the request ends is given up: so none is heard after the
courier's.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Protocol
from weakref import WeakValueDictionary

import httpx

from serve_app.domain.errors import DarkroomError, DatabaseUnavailable, RequestNotFound
from serve_app.domain.ports import Clock, Queue
from serve_app.domain.request import Request
from serve_app.domain.webhook import Channel, Claimed
from serve_app.telemetry.logs import request_id
from serve_app.webhooks.channels import Channels
from serve_app.webhooks.sending import Sender
from serve_app.webhooks.signing import Parcel

log = logging.getLogger(__name__)

MOST = 500
MOST_OF_TENANT = 200
"""Requests that are followed at once; others wait for their turn, first come first."""

TIMEOUT_S = 5.0
LOOK_S = 0.5
"""Between two looks whether the request ended while a call is under way; and so long one takes."""

SILENCE_S = 2.5
"""After so long no call of another process is under way: what that knows of a request is at most a
second old when it looks."""

WAIT_S = 60.0
AGAIN_S = 1.0  # while the database is away
ROOM_S = 0.25  # between two looks whether the channel has room
MOST_LOOKS = 40  # for room to tell an end

_BY = ";told-by="

Tell = Callable[[Request], Awaitable[bytes | None]]
"""The body for a request as it is now; None: of this there is nothing to tell. What it returned is
sent, or lost: it is not asked for again."""


@dataclass(frozen=True, slots=True)
class Story:
    """What is to be told of one request."""

    url: str  # checked
    tell: Tell
    every_s: float  # at least, between two calls
    to_the_end: bool = False  # its end too. False: the courier tells that, and then none may follow


class Tally(Protocol):
    def webhook(self, result: str) -> None:
        """``told``, or ``lost``: it is not tried again."""
        ...


class Herald:
    """One in each ingress process. ``sender`` is its own: those who do not answer here keep no
    connection from the courier, and close no channel to it."""

    def __init__(self, queue: Queue, sender: Sender, clock: Clock, tally: Tally) -> None:
        self._queue = queue
        self._sender = sender
        self._clock = clock
        self._tally = tally
        self._name = secrets.token_hex(4)
        self._channels = Channels()
        self._places = asyncio.Semaphore(MOST)
        self._of_tenant = WeakValueDictionary[str, asyncio.Semaphore]()
        self._following: dict[str, asyncio.Task[None]] = {}

    def marked(self, origin: str) -> str:
        """The origin of a webhook whose request this process will follow."""
        return f"{origin}{_BY}{self._name}"

    def follow(self, request: Request, story: Story) -> None:
        """From now on. Of a request that has ended, there is nothing to tell but its end."""
        if request.id in self._following or (request.state.final and not story.to_the_end):
            return
        task = asyncio.create_task(self._follow(request, story))
        self._following[request.id] = task
        task.add_done_callback(lambda _: self._following.pop(request.id, None))

    async def silenced(self, claimed: Claimed) -> Claimed:
        """Without the mark, and as soon as nothing else is under way about its request, which has
        ended."""
        origin, by, name = claimed.origin.rpartition(_BY)
        if not by:
            return claimed
        if name != self._name:
            await asyncio.sleep(SILENCE_S)
        elif (task := self._following.get(claimed.request_id)) is not None:
            task.cancel()
            await asyncio.wait((task,))
        return replace(claimed, origin=origin)

    async def aclose(self) -> None:
        """What is under way is given up, and what is followed is not told any further."""
        tasks = [*self._following.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _follow(self, request: Request, story: Story) -> None:
        request_id.set(request.id)
        of_tenant = self._of_tenant.setdefault(request.tenant, asyncio.Semaphore(MOST_OF_TENANT))
        try:
            async with of_tenant, self._places:
                await self._tell(request, story)
        except RequestNotFound:
            return  # deleted
        except Exception:
            log.exception("Request %s is not told of any further", request.id)

    async def _tell(self, request: Request, story: Story) -> None:
        channel = Channel(request.tenant, httpx.URL(story.url).netloc.decode())
        seen: Request | None = None
        calls = looks = 0
        while True:
            try:
                now = await self._next(request, seen)
                if now.state.final and (not story.to_the_end or looks == MOST_LOOKS):
                    return
                if not self._channels.choose((channel,), self._clock.monotonic()):
                    looks += now.state.final
                    await asyncio.sleep(ROOM_S)
                    continue
                body = await story.tell(now)
                if body is not None:
                    calls += 1
                    parcel = Parcel(f"{request.id}-{calls}", request.id, request.tenant, body)
                    await self._call(channel, story, parcel)
            except RequestNotFound:
                raise
            except DarkroomError:
                await asyncio.sleep(AGAIN_S)
                continue
            if now.state.final:
                return
            seen = now
            if body is not None:
                await asyncio.sleep(story.every_s)

    async def _next(self, request: Request, seen: Request | None) -> Request:
        """As it is at its next change; as it is, if nothing was seen of it."""
        if seen is None:
            return await self._queue.get(request.tenant, request.id)
        return await self._queue.changed(request.tenant, request.id, WAIT_S, since=seen)

    async def _call(self, channel: Channel, story: Story, parcel: Parcel) -> None:
        if await self._over(story, parcel):
            return
        self._channels.left(channel)
        call = asyncio.create_task(self._sender.post(story.url, parcel, TIMEOUT_S))
        call.add_done_callback(lambda _: self._channels.back(channel))
        try:
            while not call.done():
                await asyncio.wait((call,), timeout=LOOK_S)
                if not call.done() and await self._over(story, parcel):
                    return
            answer = call.result()
        finally:
            call.cancel()
            await asyncio.wait((call,))
        self._channels.heard(channel, answer, self._clock.monotonic())
        self._tally.webhook("told" if answer.accepted else "lost")

    async def _over(self, story: Story, parcel: Parcel) -> bool:
        """Whether the courier has the word now."""
        if story.to_the_end:
            return False
        try:
            async with asyncio.timeout(LOOK_S):
                return (await self._queue.get(parcel.tenant, parcel.request_id)).state.final
        except TimeoutError:
            raise DatabaseUnavailable("Whether the request has ended cannot be told now.") from None
