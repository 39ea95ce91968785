"""Webhooks about budgets, signed as those about requests."""

from __future__ import annotations

import json
from collections.abc import Sequence

from serve_app.domain.billing.budgets import BudgetWarning, BudgetWarnings
from serve_app.webhooks.outbox import OutboxWorker
from serve_app.webhooks.sender import Sender
from serve_app.webhooks.signing import SignedMessage

LOOK_EVERY_S = 10.0


class BudgetNotifier(OutboxWorker[BudgetWarning]):
    """Calls the webhooks of warnings."""

    def __init__(self, warnings: BudgetWarnings, sender: Sender, waits_s: Sequence[float]) -> None:
        super().__init__(sender, waits_s, "budgets", LOOK_EVERY_S)
        self._warnings = warnings

    async def _claim(self, claimed_s: float, limit: int) -> Sequence[BudgetWarning]:
        return await self._warnings.claim(claimed_s, limit)

    async def _settle(self, notice: BudgetWarning, again_after_s: float | None) -> None:
        await self._warnings.settle(notice, again_after_s)

    def _message(self, notice: BudgetWarning) -> SignedMessage:
        return SignedMessage(notice.id, notice.id, notice.tenant, body_of(notice))


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
