"""Realtime session of an app: a lease that stays open while a client is connected to a websocket of
the app."""

from __future__ import annotations

import asyncio
import json
import logging
from collections import deque
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, cast

import msgpack

from deployments.executors.attempt import AttemptParts, ExecutorAttempt
from deployments.executors.base import (
    AppExecutor,
    ExecutorWork,
    LoggedLine,
    MadeOutput,
    SessionMessage,
    SessionOpened,
    SessionRead,
)
from deployments.executors.places import Place, with_made_files
from deployments.replica.attempt_state import StopReason
from deployments.replica.failures import as_failure
from deployments.replica.leased_attempts import LeasedAttempts
from serve_app.domain.errors import DarkroomError, Fenced, ReplicaDied
from serve_app.domain.lease import Lease, LeaseKey
from serve_app.domain.outcome import Outcome
from serve_app.domain.ports import Clock
from serve_app.domain.progress import Progress, Stage
from serve_app.domain.realtime import AppMessages, AppSessionRules, SessionEnd

log = logging.getLogger(__name__)

ENDED = "The session has ended."

MAX_UNREAD = 8
"""Messages of a client that wait in the app's process."""

MAX_WAITING, MAX_WAITING_BYTES = 16, 16 * 2**20
"""Messages of an app that wait for the ingress. Above one of both, the app waits when it sends."""

SILENCE_S = 30.0
"""Time without a call after which the ingress, with its client, is gone."""

NORMAL, BROKEN = 1000, 1011
"""Close codes of RFC 6455 for a session that ended and for one that failed."""

CANCELLED = "The session was cancelled."

Content = bytes | str


class MessagePipe:
    """Messages between the ingress and an app, in both directions. Use on one event loop."""

    def __init__(self, rules: AppSessionRules, clock: Clock, silence_s: float = SILENCE_S) -> None:
        self.message_count = 0  # messages of the app
        self._rules = rules
        self._clock = clock
        self._silence_s = silence_s
        self._tell: Callable[[Content], None] | None = None  # None: the app does not run yet
        self._end: SessionEnd | None = None
        self._left = False
        self._waiting: deque[Content] = deque()  # of the app
        self._sent = self._read = 0
        self._owed = 0  # messages that have no answer yet, at most
        self._app_waits = False
        self._calls = 0  # of the ingress, in hand
        self._heard_at = self._moved_at = clock.monotonic()
        self._changed = asyncio.Event()

    # For the ingress

    async def send(self, content: Content) -> None:
        """Give a message to the app, when it has room. ``Fenced``: there is none any more."""
        async with self._count_call():
            await self._until(lambda: self._is_over or (self._tell is not None and self._has_room))
            if self._is_over or self._tell is None:
                raise Fenced(ENDED)
            self._sent += 1
            self._owed += 1
            self._moved_at = self._clock.monotonic()
            self._tell(content)

    async def take(self, within_s: float) -> AppMessages:
        """Messages of the app since the last call, or none ``within_s`` seconds later. ``Fenced``:
        there will be none."""
        async with self._count_call():
            if not await self._until(lambda: self._waiting or self._is_over, within_s):
                return AppMessages(idle_s=self._idle_s)
            if self._end is None and not self._waiting:
                raise Fenced(ENDED)
            messages = tuple(self._waiting)
            self._waiting.clear()
            self._change()
            return AppMessages(messages, end=self._end)

    def leave(self) -> None:
        """End the session: its client has left, or has heard of its end."""
        self._left = True
        self._change()

    # For the app

    def open(self, tell: Callable[[Content], None]) -> None:
        """Begin. ``tell`` gives a message to the app."""
        self._tell = tell
        self._moved_at = self._clock.monotonic()
        self._change()

    async def keep(self, content: Content) -> None:
        """Keep a message of the app for the ingress. Waits while it does not take them."""
        await self._until(lambda: self._left or self._can_keep)
        self._waiting.append(content)
        self.message_count += 1
        rules = self._rules
        # An app that drops messages by itself answers one for several, and tells nobody for which.
        answered = rules.max_batch_size if rules.buffering is None else self._owed
        self._owed = max(self._owed - answered, 0)
        self._moved_at = self._clock.monotonic()
        self._change()

    def read(self, number: int, *, waits: bool) -> None:
        """The app has taken ``number`` messages. ``waits``: it now waits for another one."""
        self._read, self._app_waits = number, waits
        self._change()

    def close(self, end: SessionEnd) -> None:
        """The app has closed its websocket, or has failed. The first reason counts."""
        self._end = self._end or end
        self._change()

    async def wait_until_left(self) -> None:
        """Wait until the client has left and has heard of an end, or the ingress is gone."""
        while not self._left:
            if self._calls:
                self._heard_at = self._clock.monotonic()
            left_s = self._silence_s - (self._clock.monotonic() - self._heard_at)
            if left_s <= 0:
                log.info("A session ends, because its ingress is gone.")
                return
            await self._until(lambda: self._left, left_s)

    @property
    def is_open(self) -> bool:
        """True from the moment that the app can be told something."""
        return self._tell is not None

    @property
    def _is_over(self) -> bool:
        return self._left or self._end is not None

    @property
    def _has_room(self) -> bool:
        most = self._rules.most_unanswered
        return self._sent - self._read < MAX_UNREAD and (most is None or self._owed < most)

    @property
    def _can_keep(self) -> bool:
        return len(self._waiting) < MAX_WAITING and sum(map(len, self._waiting)) < MAX_WAITING_BYTES

    @property
    def _idle_s(self) -> float:
        """Time in which the app has only waited for its client."""
        computes = self._rules.drops and self._owed > 0
        if not self._app_waits or computes or self._sent > self._read:
            return 0.0
        return self._clock.monotonic() - self._moved_at

    @asynccontextmanager
    async def _count_call(self) -> AsyncGenerator[None]:
        self._calls += 1
        try:
            yield
        finally:
            self._calls -= 1
            self._heard_at = self._clock.monotonic()

    def _change(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def _until(self, holds: Callable[[], object], within_s: float | None = None) -> bool:
        """Wait until ``holds`` is true. False: it is not ``within_s`` seconds later."""
        try:
            async with asyncio.timeout(within_s):
                while not holds():
                    await self._changed.wait()
        except TimeoutError:
            return False
        return True


class AppSession(ExecutorAttempt):
    """Attempt that connects a client to a websocket of its app, until one of both leaves."""

    def __init__(self, lease: Lease, parts: AttemptParts) -> None:
        super().__init__(lease, parts)
        rules = AppSessionRules.of(lease.endpoint) or AppSessionRules()
        self.pipe = MessagePipe(rules, parts.clock)

    @property
    def goes_elsewhere(self) -> bool:
        return True  # its client opens another session

    def stop(self, why: StopReason) -> None:
        """End the attempt soon. One that is cancelled ends as if its client had left: what the app
        has made was delivered, and is billed."""
        if why is StopReason.CANCELLED and self.pipe.is_open:
            self.pipe.close(SessionEnd(NORMAL, CANCELLED))
            self.pipe.leave()
        else:
            super().stop(why)

    async def send(self, content: Content) -> None:
        """Give a message of the client to the app. ``InvalidInput``: a file that it names cannot be
        fetched."""
        if isinstance(content, bytes) and b"http" in content:
            content = await self._with_fetched(content)
        await self.pipe.send(content)

    async def _make(self) -> Mapping[str, Any]:
        try:
            return await super()._make()
        except Exception as error:
            failure = as_failure(error)
            self.pipe.close(SessionEnd(BROKEN, failure.message, failure))
            await self.pipe.wait_until_left()  # else the client would not hear why
            raise
        finally:
            self.pipe.leave()

    async def _output(self, executor: AppExecutor, work: ExecutorWork) -> Mapping[str, Any]:
        passing = asyncio.create_task(self._pass(executor, replace(work, is_session=True)))
        leaving = asyncio.create_task(self.pipe.wait_until_left())
        try:
            await asyncio.wait((passing, leaving), return_when=asyncio.FIRST_COMPLETED)
            if passing.done():
                passing.result()
                await leaving
            else:
                await self._end_call(executor)
            return {"messages": self.pipe.message_count}
        finally:
            for task in (passing, leaving):
                task.cancel()
            await asyncio.gather(passing, leaving, return_exceptions=True)

    async def _pass(self, executor: AppExecutor, work: ExecutorWork) -> None:
        """Pass messages on, until the app closes its websocket."""
        async for event in executor.run(work):
            if isinstance(event, SessionRead):
                self.pipe.read(event.number, waits=event.waits)
            elif isinstance(event, SessionMessage):
                await self.pipe.keep(
                    await self._inline_files(event) if event.files else event.content
                )
                self.state.set_progress(Progress(Stage.RUNNING, self.pipe.message_count))
            elif isinstance(event, LoggedLine):
                self.printed.append(event.level, event.text)
            elif isinstance(event, MadeOutput):
                output = event.output
                self.pipe.close(SessionEnd(int(output["code"]), str(output["reason"])))
                return
            elif isinstance(event, SessionOpened):
                self.pipe.open(event.tell)
        raise ReplicaDied("The app ended the session without closing it.")

    async def _with_fetched(self, message: bytes) -> bytes:
        """A message with the files that it names as data URIs, which are fetched by the rules for
        URLs of clients. They do not bind what the app itself reads."""
        try:
            document: Any = msgpack.unpackb(message, raw=False)
        except (ValueError, msgpack.UnpackException):
            return message  # in an encoding of the app's own
        if not isinstance(document, dict):
            return message
        fetched = await self._files.fetch_inline(cast("Mapping[str, Any]", document))
        return message if fetched is document else cast("bytes", msgpack.packb(fetched))

    async def _inline_files(self, message: SessionMessage) -> Content:
        """A message of the app with its files as data URIs. In place of one that cannot be shown,
        an error that fal's clients raise."""
        content, files = message.content, message.files
        try:
            if isinstance(content, str) or content[:1] in (b"{", b"["):
                written = json.dumps(await self._inline(json.loads(content), files))
                return written if isinstance(content, str) else written.encode()
            document = await self._inline(msgpack.unpackb(content, raw=False), files)
            return cast("bytes", msgpack.packb(document, use_bin_type=True))
        except DarkroomError as error:
            error_type = {"type": "x-fal-error", "error": "INTERNAL_ERROR"}
            return json.dumps({**error_type, "reason": error.message})

    async def _inline(self, output: Any, places: tuple[Place, ...]) -> Any:
        return await self._files.inline(with_made_files(output, places))

    def _failed(self, error: Exception) -> Outcome:
        failed = super()._failed(error)
        if failed.failure is None:
            return failed
        # Another attempt would be another session, whose client does not know of it.
        return replace(failed, failure=replace(failed.failure, retryable=False))


class OpenAppSessions:
    """Sessions of apps among a replica's attempts."""

    def __init__(self, attempts: LeasedAttempts[ExecutorAttempt]) -> None:
        self._attempts = attempts

    async def send_message(self, lease_key: LeaseKey, message: Content) -> None:
        session = await self._session(lease_key)
        await session.send(message)

    async def next_messages(self, lease_key: LeaseKey, within_s: float) -> AppMessages:
        session = await self._session(lease_key)
        return await session.pipe.take(within_s)

    def end(self, lease_key: LeaseKey) -> None:
        session = self._attempts.running.get(lease_key)
        if isinstance(session, AppSession):
            session.pipe.leave()

    async def _session(self, lease_key: LeaseKey) -> AppSession:
        session = await self._attempts.find(lease_key)
        if not isinstance(session, AppSession):
            raise Fenced(ENDED)
        return session
