"""Timings of attempts for their traces: measured while they run, and sent after they have ended."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field, replace

from deployments.replica.config import IngressLink
from serve_app.domain.lease import Lease, Report
from serve_app.domain.ports import Clock
from serve_app.telemetry.attempt_trace import AttemptTrace, Attribute, StageTiming

log = logging.getLogger(__name__)

MAX_PENDING, AT_ONCE = 2000, 200
"""Attempts whose timings wait to be sent, and that one report has. More are dropped and counted."""


@dataclass(slots=True)
class _Timing:
    began: float
    ended: float
    attributes: dict[str, Attribute] = field(default_factory=dict[str, Attribute])


WAITING, NO_WAIT_S = "waiting_for_slot", 0.001
"""Name of the stage before an attempt has a slot. Below so many seconds it did not wait."""


class Timeline:
    """Stages of one attempt and when they began and ended, by the monotonic clock.

    A stage of a part is one entry, however often it is entered: a video's frames are decoded and
    encoded by turns. Any thread may enter a stage, since each change is one operation of a dict.
    """

    def __init__(self, clock: Clock, began: float) -> None:
        self._clock = clock
        self._began = began
        self._stages: dict[tuple[int, str], _Timing] = {}  # by part and name
        self._current: tuple[int, str] | None = None

    def enter(self, name: str | None, part: int = 0) -> None:
        """Begin the stage ``name`` of a part, unless it goes on; None for time outside of a stage.
        The stage before has ended."""
        entered = None if name is None else (part, name)
        if entered == self._current:
            return
        now = self._clock.monotonic()
        if self._current is not None:
            self._stages[self._current].ended = now
        if entered is not None:
            self._stages.setdefault(entered, _Timing(now, now)).ended = now
        self._current = entered

    def note(self, **attributes: Attribute) -> None:
        """Add attributes to the last stage ``denoising``, as ``darkroom.…``."""
        for (_, name), timing in reversed(list(self._stages.items())):
            if name == "denoising":
                timing.attributes.update(
                    {f"darkroom.{key}": value for key, value in attributes.items()}
                )
                return

    def end(self, lease: Lease, error: str) -> AttemptTrace:
        """Timings of the attempt, which ends now. ``error``: code; empty if there is none."""
        self.enter(None)
        now = self._clock.monotonic()
        stages = [
            StageTiming(
                name, stage.began - self._began, stage.ended - stage.began, stage.attributes
            )
            for (_, name), stage in list(self._stages.items())
            if name != WAITING or stage.ended - stage.began >= NO_WAIT_S
        ]
        took_s = now - self._began
        return AttemptTrace(
            lease.trace, lease.key, lease.endpoint.id, lease.tenant, took_s, now, error, stages
        )


class TraceReports:
    """Sends the timings of ended attempts to the ingress, at most every ``report_interval_s``. What
    the ingress does not take is sent again with the next."""

    def __init__(self, link: IngressLink) -> None:
        self._link = link
        self._pending: list[AttemptTrace] = []  # ``ended_ago_s``: monotonic time of the end
        self._lost = 0
        self._task: asyncio.Task[None] | None = None

    def add(self, trace: AttemptTrace) -> None:
        """``trace``: as made by ``Timeline.end``."""
        if len(self._pending) >= MAX_PENDING:
            self._lost += 1
            return
        self._pending.append(trace)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._send_soon(), name="traces")

    async def aclose(self) -> None:
        """Send the rest, with one try."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._pending:
            await self._send()

    async def _send_soon(self) -> None:
        while self._pending:
            await asyncio.sleep(self._link.calls.report_interval_s)
            await self._send()

    async def _send(self) -> None:
        sent, lost = self._pending[:AT_ONCE], self._lost
        now = self._link.clock.monotonic()
        report = Report(
            replica_id=self._link.identity.replica_id,
            renewals=(),
            pool=self._link.identity.pool,
            traces=tuple(
                replace(trace, ended_ago_s=now - trace.ended_ago_s).to_plain() for trace in sent
            ),
            lost_traces=lost,
        )
        try:
            async with asyncio.timeout(self._link.calls.call_timeout_s):
                await self._link.port.report(report)
        except Exception as error:
            log.info("The ingress did not accept timings of attempts (%r); retrying.", error)
            return
        del self._pending[: len(sent)]
        self._lost -= lost
