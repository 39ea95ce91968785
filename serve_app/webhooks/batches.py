"""Webhooks about the ends of batches, signed as those about requests."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Sequence

from serve_app.domain.batches.batch import BatchNotice, BatchWork
from serve_app.domain.errors import DarkroomError
from serve_app.webhooks.sender import Sender
from serve_app.webhooks.signing import SignedMessage

log = logging.getLogger(__name__)

LOOK_EVERY_S = 2.0
TIMEOUT_S = 15.0
CLAIMED_S = 60.0
MOST_AT_ONCE = 20


class BatchNotifier:
    """Calls the webhooks of batches that have ended. The ingress processes share them by
    claiming."""

    def __init__(self, work: BatchWork, sender: Sender, waits_s: Sequence[float]) -> None:
        """``waits_s``: between the tries; after the last one a webhook is given up."""
        self._work = work
        self._sender = sender
        self._waits_s = waits_s
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        if self._task is None:
            self._task = asyncio.create_task(self._forever(), name="batch webhooks")

    async def aclose(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def look(self) -> None:
        """Call the webhooks that are due, once each."""
        due = await self._work.claim_notices(CLAIMED_S, MOST_AT_ONCE)
        await asyncio.gather(*map(self._call, due))

    async def _call(self, notice: BatchNotice) -> None:
        event = event_id(notice)
        message = SignedMessage(event, notice.batch_id, notice.tenant, body_of(notice))
        answer = await self._sender.post(notice.url, message, TIMEOUT_S)
        again_s = None
        if not answer.accepted:
            log.warning(
                "The webhook of the batch %s was not delivered: %s", notice.batch_id, answer.error
            )
            if not answer.final and notice.tries <= len(self._waits_s):
                again_s = max(self._waits_s[notice.tries - 1], answer.again_after_s or 0.0)
        await self._work.settle_notice(notice.batch_id, again_s)

    async def _forever(self) -> None:
        while True:
            try:
                await self.look()
            except DarkroomError as error:
                log.warning("Webhooks about batches are delayed: %s", error.message)
            except Exception:
                log.exception("Webhooks about batches are delayed by an error")
            await asyncio.sleep(LOOK_EVERY_S)


def event_id(notice: BatchNotice) -> str:
    """Id of the event, the same for every try."""
    return f"evt_{notice.batch_id.removeprefix('batch_')}"


def body_of(notice: BatchNotice) -> bytes:
    """Body of the call, in the format of OpenAI's webhooks."""
    return json.dumps(
        {
            "id": event_id(notice),
            "object": "event",
            "created_at": int(notice.ended_at.timestamp()),
            "type": f"batch.{notice.status}",
            "data": {"id": notice.batch_id},
        },
        separators=(",", ":"),
    ).encode()
