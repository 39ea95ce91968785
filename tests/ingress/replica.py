"""A replica that does what a request's input says, for tests of the ingress."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import io
from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image

from serve_app.domain.artifact import Artifact, UploadTicket
from serve_app.domain.errors import Cancelled, Fenced
from serve_app.domain.lease import Ask, Finish, Held, Lease, Report, SignalKind
from serve_app.domain.outcome import Failure, Outcome, Usage
from serve_app.domain.ports import LeasePort, Storage
from serve_app.domain.progress import Preview, Progress, Stage
from serve_app.domain.request import Priority
from serve_app.domain.session import Drawn, Frame, Seat


def _jpeg() -> bytes:
    made = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(made, "JPEG")
    return made.getvalue()


REPLICA = "replica-1"
LEAST_REPORTED_S = 0.05
JPEG = _jpeg()

PREVIEW = b"\xff\xd8\xff a preview"


class ScriptedReplica:
    """Reads its orders in the input, all optional: ``sleep_s``, ``steps`` (in that time, each with
    a preview if somebody looks), ``fail`` (code), ``field`` with ``type`` and ``context``,
    ``retryable``, ``artifacts`` (how many), ``content`` (of each), ``echo``; ``prompt``, when it is
    `a JPEG`: clients by others can say nothing else, and look into their pictures."""

    def __init__(self, queue: LeasePort, storage: Storage, pool: str = "studio") -> None:
        self._queue = queue
        self._storage = storage
        self._pool = pool
        self._running: dict[Held, asyncio.Task[None]] = {}
        self._loop: asyncio.Task[None] | None = None
        self._sessions: dict[Held, asyncio.Event] = {}
        self.ran: list[str] = []  # ids of requests, as they began
        self.drawn: list[Frame] = []  # of sessions, as they began
        self.stopped: list[str] = []  # those that were cancelled while they ran

    # As ``Sessions``

    async def draw(self, seat: Seat, frame: Frame) -> Drawn:
        if seat.held not in self._sessions or seat.replica_id != REPLICA:
            raise Fenced("The session has ended.")
        orders = frame.input
        self.drawn.append(frame)
        await asyncio.sleep(float(orders.get("sleep_s", 0)))
        if "fail" in orders:
            return Drawn(_failure(orders))
        content = str(orders.get("content", "picture")).encode()
        files = {ticket.key: content for ticket in frame.files}
        artifacts = tuple(_artifact(ticket, content) for ticket in frame.files)
        usage = Usage(run_s=0.25, steps=4)
        return Drawn(Outcome(_answer(orders, artifacts), artifacts, usage=usage), files)

    async def end(self, seat: Seat) -> None:
        if (over := self._sessions.get(seat.held)) is not None:
            over.set()

    async def start(self) -> None:
        self._loop = asyncio.create_task(self._serve())

    async def aclose(self) -> None:
        pending = {task for task in (self._loop, *self._running.values()) if task is not None}
        while pending:
            # Again and again: `wait_for` of Python 3.11 loses a cancel that comes with a wake-up.
            for task in pending:
                task.cancel()
            _, pending = await asyncio.wait(pending, timeout=0.1)

    async def _serve(self) -> None:
        while True:
            held = tuple(self._running)
            slots = 256 - len(held)
            work = await self._queue.ask(Ask(REPLICA, "actor-1", self._pool, slots, held))
            for lease in work.leases:
                self._running[lease.held] = asyncio.create_task(self._run(lease))
            for signal in work.signals:
                if signal.kind is SignalKind.CANCEL and signal.held in self._running:
                    self._running.pop(signal.held).cancel()
                    await self._cancelled(signal.held)

    async def _run(self, lease: Lease) -> None:
        held, orders = lease.held, lease.input
        if lease.priority is Priority.REALTIME:
            await self._hold(held)
            return
        self.ran.append(lease.request_id)
        sleep_s = float(orders.get("sleep_s", 0))
        if sleep_s >= LEAST_REPORTED_S:
            await self._work(held, sleep_s, int(orders.get("steps", 1)))
        outcome = _failure(orders) if "fail" in orders else await self._output(lease)
        await self._queue.finish(Finish(held, REPLICA, outcome))
        self._running.pop(held, None)

    async def _hold(self, held: Held) -> None:
        over = self._sessions[held] = asyncio.Event()
        try:
            while not over.is_set():
                await self._queue.report(Report(REPLICA, (held,)))
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(1.0):
                        await over.wait()
        finally:
            del self._sessions[held]
        await self._queue.finish(Finish(held, REPLICA, Outcome(output={"frames": 0})))
        self._running.pop(held, None)

    async def _work(self, held: Held, sleep_s: float, steps: int) -> None:
        previews: tuple[tuple[Held, Preview], ...] = ()
        for step in range(1, steps + 1):
            progress = Progress(Stage.DENOISING, step, max(steps, 4))
            reply = await self._queue.report(
                Report(REPLICA, (held,), ((held, progress),), previews)
            )
            await asyncio.sleep(sleep_s / steps)
            seen = held in reply.watched and steps > 1
            previews = ((held, Preview(step, PREVIEW)),) if seen else ()

    async def _output(self, lease: Lease) -> Outcome:
        content = str(lease.input.get("content", "picture")).encode()
        if lease.input.get("prompt") == "a JPEG":
            content = JPEG

        async def chunks() -> Any:
            yield content

        artifacts: list[Artifact] = []
        for ticket in lease.upload_tickets:
            await self._storage.put(ticket.key, ticket.media_type, chunks())
            artifacts.append(_artifact(ticket, content))
        output = _answer(lease.input, artifacts)
        return Outcome(output=output, artifacts=tuple(artifacts), usage=Usage(run_s=0.25, steps=4))

    async def _cancelled(self, held: Held) -> None:
        self.stopped.append(held.request_id)
        failure = Failure(Cancelled.code, "The request was cancelled.", retryable=False)
        await self._queue.finish(Finish(held, REPLICA, Outcome(failure=failure)))


def _artifact(ticket: UploadTicket, content: bytes) -> Artifact:
    digest = hashlib.sha256(content).hexdigest()
    return Artifact(ticket.key, ticket.media_type, len(content), digest, width=8, height=8)


def _answer(orders: Mapping[str, Any], artifacts: Sequence[Artifact]) -> dict[str, Any]:
    return {
        "images": [{"artifact": each.key} for each in artifacts],
        "seed": orders.get("seed") or 0,
        "prompt": orders.get("prompt", ""),
        "echo": orders.get("echo"),
    }


def _failure(orders: Mapping[str, Any]) -> Outcome:
    return Outcome(
        failure=Failure(
            code=orders["fail"],
            message=orders.get("message", "It went wrong."),
            retryable=bool(orders.get("retryable", False)),
            field=orders.get("field"),
            type=orders.get("type"),
            context=orders.get("context"),
        )
    )
