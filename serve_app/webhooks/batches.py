"""Webhooks about the ends of batches, signed as those about requests."""

from __future__ import annotations

import json
from collections.abc import Sequence

from serve_app.domain.batches.batch import BatchNotice, BatchWork
from serve_app.webhooks.outbox import OutboxWorker
from serve_app.webhooks.sender import Sender
from serve_app.webhooks.signing import SignedMessage

LOOK_EVERY_S = 2.0


class BatchNotifier(OutboxWorker[BatchNotice]):
    """Calls the webhooks of batches that have ended."""

    def __init__(self, work: BatchWork, sender: Sender, waits_s: Sequence[float]) -> None:
        super().__init__(sender, waits_s, "batches", LOOK_EVERY_S)
        self._work = work

    async def _claim(self, claimed_s: float, limit: int) -> Sequence[BatchNotice]:
        return await self._work.claim_notices(claimed_s, limit)

    async def _settle(self, notice: BatchNotice, again_after_s: float | None) -> None:
        await self._work.settle_notice(notice.batch_id, again_after_s)

    def _message(self, notice: BatchNotice) -> SignedMessage:
        return SignedMessage(event_id(notice), notice.batch_id, notice.tenant, body_of(notice))


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
