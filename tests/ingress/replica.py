"""Replica for tests of the ingress that follows orders in a request's input."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import io
import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from PIL import Image

from serve_app.domain.artifact import Artifact, UploadTicket
from serve_app.domain.errors import Cancelled, Fenced
from serve_app.domain.executors.partial_results import PartialResults
from serve_app.domain.lease import Ask, Finish, Lease, LeaseKey, Report, SignalKind
from serve_app.domain.media.draft import DRAFT_TYPE
from serve_app.domain.outcome import Failure, Outcome, Usage
from serve_app.domain.ports import LeasePort, Storage
from serve_app.domain.progress import PartialResult, Preview, Progress, Stage
from serve_app.domain.realtime import Frame, FrameResult, ReplicaSlot
from serve_app.domain.request import Priority


def _jpeg() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(buffer, "JPEG")
    return buffer.getvalue()


REPLICA = "replica-1"
MIN_REPORTED_S = 0.05
JPEG = _jpeg()

PREVIEW = b"\xff\xd8\xff a preview"


class ScriptedReplica:
    """Replica that reads its orders from the input. All of them are optional.

    ``sleep_s``, ``steps`` (in that time, each with a preview if a client polls for previews),
    ``fail`` (code), ``field`` with ``type`` and ``context``, ``retryable``, ``artifacts`` (their
    number), ``content`` (of each), ``thumbnails`` (each has one), ``echo``. Other authors' clients
    can send nothing but a ``prompt`` and open their images: for them there is the prompt `a JPEG`.
    ``yields`` (a list) are a generator's values, the last of them the output. ``output`` is JSON of
    the whole output, for calls that are forms. ``alone``: field of the output with its one file.
    """

    def __init__(
        self,
        queue: LeasePort,
        storage: Storage,
        pool: str = "studio",
        partials: PartialResults | None = None,
    ) -> None:
        self._partials = partials
        self._queue = queue
        self._storage = storage
        self._pool = pool
        self._running: dict[LeaseKey, asyncio.Task[None]] = {}
        self._loop: asyncio.Task[None] | None = None
        self._sessions: dict[LeaseKey, asyncio.Event] = {}
        self.ran: list[str] = []  # ids of requests, in the order of their starts
        self.drawn: list[Frame] = []  # of sessions, in the order of their starts
        self.stopped: list[str] = []  # ids of requests that were cancelled while running

    # Implements ``Sessions``

    async def generate_frame(self, seat: ReplicaSlot, frame: Frame) -> FrameResult:
        if seat.lease_key not in self._sessions or seat.replica_id != REPLICA:
            raise Fenced("The session has ended.")
        orders = frame.input
        self.drawn.append(frame)
        await asyncio.sleep(float(orders.get("sleep_s", 0)))
        if "fail" in orders:
            return FrameResult(_failure(orders))
        content = str(orders.get("content", "image")).encode()
        files = {ticket.key: content for ticket in frame.files}
        artifacts = tuple(_artifact(ticket, content) for ticket in frame.files)
        usage = Usage(run_s=0.25, steps=4)
        return FrameResult(Outcome(_answer(orders, artifacts), artifacts, usage=usage), files)

    async def end(self, seat: ReplicaSlot) -> None:
        if (over := self._sessions.get(seat.lease_key)) is not None:
            over.set()

    async def start(self) -> None:
        self._loop = asyncio.create_task(self._serve())

    async def aclose(self) -> None:
        pending = {task for task in (self._loop, *self._running.values()) if task is not None}
        while pending:
            # Repeated: Python 3.11's `wait_for` loses a cancel that arrives with a wake-up.
            for task in pending:
                task.cancel()
            _, pending = await asyncio.wait(pending, timeout=0.1)

    async def _serve(self) -> None:
        while True:
            running = tuple(self._running)
            slots = 256 - len(running)
            work = await self._queue.ask(Ask(REPLICA, "actor-1", self._pool, slots, running))
            for lease in work.leases:
                self._running[lease.key] = asyncio.create_task(self._run(lease))
            for signal in work.signals:
                if signal.kind is SignalKind.CANCEL and signal.lease_key in self._running:
                    self._running.pop(signal.lease_key).cancel()
                    await self._cancelled(signal.lease_key)

    async def _run(self, lease: Lease) -> None:
        lease_key, orders = lease.key, lease.input
        if lease.priority is Priority.REALTIME:
            await self._hold(lease_key)
            return
        self.ran.append(lease.request_id)
        sleep_s = float(orders.get("sleep_s", 0))
        if sleep_s >= MIN_REPORTED_S:
            await self._work(lease_key, sleep_s, int(orders.get("steps", 1)))
        await self._yield(lease_key, orders)
        outcome = _failure(orders) if "fail" in orders else await self._output(lease)
        await self._queue.finish(Finish(lease_key, REPLICA, outcome))
        self._running.pop(lease_key, None)

    async def _yield(self, lease_key: LeaseKey, orders: Mapping[str, Any]) -> None:
        for number, value in enumerate(orders.get("yields", ())):
            assert self._partials is not None
            partial = PartialResult(lease_key.attempt, number, json.dumps(value))
            await self._partials.add(lease_key, [partial], 0)

    async def _hold(self, lease_key: LeaseKey) -> None:
        over = self._sessions[lease_key] = asyncio.Event()
        try:
            while not over.is_set():
                await self._queue.report(Report(REPLICA, (lease_key,)))
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(1.0):
                        await over.wait()
        finally:
            del self._sessions[lease_key]
        await self._queue.finish(Finish(lease_key, REPLICA, Outcome(output={"frames": 0})))
        self._running.pop(lease_key, None)

    async def _work(self, lease_key: LeaseKey, sleep_s: float, steps: int) -> None:
        previews: tuple[tuple[LeaseKey, Preview], ...] = ()
        for step in range(1, steps + 1):
            progress = Progress(Stage.DENOISING, step, max(steps, 4))
            reply = await self._queue.report(
                Report(REPLICA, (lease_key,), ((lease_key, progress),), previews)
            )
            await asyncio.sleep(sleep_s / steps)
            seen = lease_key in reply.watched and steps > 1
            previews = ((lease_key, Preview(step, PREVIEW)),) if seen else ()

    async def _output(self, lease: Lease) -> Outcome:
        if lease.input.get("yields"):
            return Outcome(output=lease.input["yields"][-1], usage=Usage(run_s=0.25))
        if lease.input.get("output"):
            return Outcome(output=json.loads(lease.input["output"]), usage=Usage(run_s=0.25))
        content = str(lease.input.get("content", "image")).encode()
        if lease.input.get("prompt") == "a JPEG":
            content = JPEG

        async def chunks() -> Any:
            yield content

        artifacts: list[Artifact] = []
        for ticket in lease.upload_tickets:
            if not ticket.form:  # else it is for a bucket of the client
                await self._storage.put(ticket.key, ticket.media_type, chunks())
            uploaded = _artifact(ticket, content)
            if ticket.thumbnail is not None and lease.input.get("thumbnails"):
                await self._storage.put(ticket.thumbnail.key, "image/webp", chunks())
                uploaded = replace(uploaded, thumbnail=_artifact(ticket.thumbnail, content))
            artifacts.append(uploaded)
        drafts = tuple(artifact for artifact in artifacts if artifact.media_type == DRAFT_TYPE)
        artifacts = [artifact for artifact in artifacts if artifact not in drafts]
        output = _answer(lease.input, artifacts)
        if alone := lease.input.get("alone"):
            output = {alone: {"artifact": artifacts[0].key}}
        if drafts:
            output["drafts"] = [_facts(lease.input, number) for number in range(len(drafts))]
        return Outcome(
            output=output,
            artifacts=tuple(artifacts),
            usage=Usage(run_s=0.25, steps=4),
            drafts=drafts,
        )

    async def _cancelled(self, lease_key: LeaseKey) -> None:
        self.stopped.append(lease_key.request_id)
        failure = Failure(Cancelled.code, "The request was cancelled.", retryable=False)
        await self._queue.finish(Finish(lease_key, REPLICA, Outcome(failure=failure)))


def _artifact(ticket: UploadTicket, content: bytes) -> Artifact:
    digest = hashlib.sha256(content).hexdigest()
    return Artifact(ticket.key, ticket.media_type, len(content), digest, width=8, height=8)


def _facts(orders: Mapping[str, Any], number: int) -> dict[str, Any]:
    """Facts of a draft, with what a replica would have made."""
    seed = (orders.get("seed") or 0) + number
    return {"id": secrets.token_urlsafe(16), "seed": seed, "step": 1, "steps": 4, "noise": 0.75}


def _answer(orders: Mapping[str, Any], artifacts: Sequence[Artifact]) -> dict[str, Any]:
    return {
        "images": [{"artifact": artifact.key} for artifact in artifacts],
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
