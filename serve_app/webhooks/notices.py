"""Webhooks about batches and budgets, signed as those about requests."""

from __future__ import annotations

import json
from collections.abc import Sequence

from serve_app.jobs.jobs import Job, JobHandler, JobKind, Retry
from serve_app.webhooks.retrying import retry_delay_s
from serve_app.webhooks.sender import Sender
from serve_app.webhooks.signing import SignedMessage

TIMEOUT_S = 15.0


class NoticeDelivery(JobHandler):
    """Handler of jobs whose key is an event, and whose ``payload`` is the URL, what it is about,
    and the body of the call."""

    def __init__(self, sender: Sender, waits_s: Sequence[float]) -> None:
        """``waits_s``: between the tries; after the last one a webhook is given up."""
        self.kind = JobKind(
            "notice",
            first_wait_s=waits_s[0] if waits_s else 0.0,
            max_wait_s=max(waits_s, default=0.0),
            max_attempts=len(waits_s) + 1,
            parallel=20,
            fair=True,
        )
        self._sender = sender
        self._waits_s = waits_s

    async def run(self, jobs: Sequence[Job]) -> Sequence[Retry]:
        (job,) = jobs
        payload = job.payload
        body = json.dumps(payload["body"], separators=(",", ":")).encode()
        message = SignedMessage(job.key, payload["about"], job.tenant, body)
        answer = await self._sender.post(payload["url"], message, TIMEOUT_S)
        if answer.is_accepted:
            return ()
        wait_s = retry_delay_s(answer, job.attempts, self._waits_s, chance=0.0)
        error = f"It was not delivered: {answer.error}"
        return [Retry(jobs, wait_s, error, last=wait_s is None)]
