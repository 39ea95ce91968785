"""Webhooks about budgets, signed as those about requests."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Sequence

from serve_app.domain.billing.budgets import BudgetWarning, BudgetWarnings
from serve_app.domain.errors import DarkroomError
from serve_app.webhooks.sender import Sender
from serve_app.webhooks.signing import SignedMessage

log = logging.getLogger(__name__)

LOOK_EVERY_S = 10.0
TIMEOUT_S = 15.0
CLAIMED_S = 60.0
MOST_AT_ONCE = 20


class BudgetNotifier:
    """Calls the webhooks of warnings. The ingress processes share them by claiming."""

    def __init__(self, warnings: BudgetWarnings, sender: Sender, waits_s: Sequence[float]) -> None:
        """``waits_s``: between the tries; after the last one a warning is given up."""
        self._warnings = warnings
        self._sender = sender
        self._waits_s = waits_s
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        if self._task is None:
            self._task = asyncio.create_task(self._forever(), name="budget webhooks")

    async def aclose(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def look(self) -> None:
        """Call the webhooks that are due, once each."""
        due = await self._warnings.claim(CLAIMED_S, MOST_AT_ONCE)
        await asyncio.gather(*map(self._call, due))

    async def _call(self, warning: BudgetWarning) -> None:
        message = SignedMessage(warning.id, warning.id, warning.tenant, body_of(warning))
        answer = await self._sender.post(warning.url, message, TIMEOUT_S)
        again_s = None
        if not answer.accepted:
            log.warning("A warning about a budget was not delivered: %s", answer.error)
            if not answer.final and warning.tries <= len(self._waits_s):
                again_s = max(self._waits_s[warning.tries - 1], answer.again_after_s or 0.0)
        await self._warnings.settle(warning, again_s)

    async def _forever(self) -> None:
        while True:
            try:
                await self.look()
            except DarkroomError as error:
                log.warning("Webhooks about budgets are delayed: %s", error.message)
            except Exception:
                log.exception("Webhooks about budgets are delayed by an error")
            await asyncio.sleep(LOOK_EVERY_S)


def body_of(warning: BudgetWarning) -> bytes:
    """Body of the call. Amounts are text, because JSON numbers are binary."""
    return json.dumps(
        {
            "type": "budget.warning",
            "id": warning.id,
            "tenant": warning.tenant,
            "threshold": warning.threshold,
            "used": f"{warning.used:f}",
            "budget": f"{warning.budget:f}",
            "currency": warning.currency,
            "period_start": warning.period.isoformat(),
            "created_at": warning.at.isoformat(),
        },
        separators=(",", ":"),
    ).encode()
