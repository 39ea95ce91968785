"""Partial results of one attempt on their way to the ingress."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections import deque
from collections.abc import Mapping
from typing import Any

from deployments.transfer.uploader import Backoff
from serve_app.domain.errors import Fenced, PipelineFailed, Unsupported
from serve_app.domain.lease import LeaseKey
from serve_app.domain.ports import AppSource
from serve_app.domain.progress import (
    MAX_PARTIAL_BYTES,
    MAX_PARTIALS_KEPT,
    MAX_PARTIALS_KEPT_BYTES,
    PartialResult,
)

log = logging.getLogger(__name__)

MAX_WAITING = 64
MAX_WAITING_BYTES = 2 * MAX_PARTIAL_BYTES
"""Partial results that wait for a call. Above one of both, the app waits at its next value."""

TRIES = 5

INTERVAL_S = 0.02
"""Shortest time between two calls: what arrives meanwhile shares the next one."""


class PartialSender:
    """Sends the partial results of one attempt in their order, with one call at a time. Use on one
    event loop.

    They are never worth the request: if the ingress does not take them, they are dropped.
    """

    def __init__(self, lease_key: LeaseKey, source: AppSource, backoff: Backoff) -> None:
        self._held = lease_key
        self._source = source
        self._backoff = backoff
        self._waiting: deque[PartialResult] = deque()
        self._waiting_bytes = 0
        self._kept: deque[int] = deque()  # sizes of the newest that clients may read
        self._kept_bytes = 0
        self._made = 0
        self._dropped = False
        self._sending: asyncio.Task[None] | None = None

    async def add(self, value: Mapping[str, Any]) -> None:
        """Send a value, whose files are data URIs. Waits while too many are on their way. Drops it
        if one before it was dropped. ``PipelineFailed``: it is too large."""
        text = json.dumps(value, separators=(",", ":"))
        if len(text) > MAX_PARTIAL_BYTES:
            raise PipelineFailed(
                f"As JSON with its files it has more than {MAX_PARTIAL_BYTES >> 20} MiB."
            )
        if self._dropped:
            return
        self._keep(len(text))
        self._waiting.append(PartialResult(self._held.attempt, self._made, text))
        self._waiting_bytes += len(text)
        self._made += 1
        while not self._dropped:
            if self._sending is None or self._sending.done():
                self._sending = asyncio.create_task(self._send_waiting())
            if len(self._waiting) <= MAX_WAITING and self._waiting_bytes <= MAX_WAITING_BYTES:
                break
            await asyncio.shield(self._sending)

    async def flush(self) -> None:
        """Wait until all have been sent or dropped: before the outcome, so that no client sees the
        end first."""
        while self._waiting and not self._dropped:
            if self._sending is None or self._sending.done():
                self._sending = asyncio.create_task(self._send_waiting())
            await asyncio.shield(self._sending)

    async def aclose(self) -> None:
        """Drop the rest."""
        if self._sending is not None:
            self._sending.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._sending

    def _keep(self, size: int) -> None:
        self._kept.append(size)
        self._kept_bytes += size
        while len(self._kept) > MAX_PARTIALS_KEPT or self._kept_bytes > MAX_PARTIALS_KEPT_BYTES:
            self._kept_bytes -= self._kept.popleft()

    async def _send_waiting(self) -> None:
        while self._waiting:
            values = tuple(self._waiting)
            first = self._made - len(self._kept)
            if not await self._send(values, first):
                self._dropped = True
                self._waiting.clear()
                return
            for partial in values:
                self._waiting.popleft()
                self._waiting_bytes -= len(partial.value)
            await asyncio.sleep(INTERVAL_S)

    async def _send(self, values: tuple[PartialResult, ...], first: int) -> bool:
        delays = self._backoff.delays()
        for left in reversed(range(TRIES)):
            try:
                await self._source.add_partials(self._held, values, first)
                return True
            except (Fenced, Unsupported):  # an older ingress has no such call
                return False
            except Exception as error:
                log.warning("The ingress did not take partial results (%r).", error)
            if left:
                await asyncio.sleep(next(delays))
        return False
