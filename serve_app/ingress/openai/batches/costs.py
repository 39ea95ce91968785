"""Most that a batch may cost: the sum of its lines, known before the first one is queued."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from serve_app.catalog.known_cost import KnownCost
from serve_app.domain.batches.batch import BatchError, StoredBatch
from serve_app.domain.errors import DarkroomError, DatabaseUnavailable, InvalidInput
from serve_app.ingress.http.body import parse
from serve_app.ingress.openai.batches.lines import RawLine
from serve_app.ingress.openai.batches.requests import LineCall, call_of
from serve_app.ingress.services.cpu_executor import in_cpu_thread
from serve_app.ingress.services.services import Services
from serve_app.ingress.submission.admission import Submission, admit
from serve_app.ingress.submission.cost import known_cost
from serve_app.ingress.submission.max_cost import (
    ERROR_TYPE,
    HEADER,
    MaxCost,
    parse_max_cost,
    refusal_of,
)
from serve_app.ingress.submission.steps import PRICED
from serve_app.tenants.scopes import Caller


@dataclass(slots=True)
class BatchCost:
    """Cost of the lines of one file so far, in their order."""

    services: Services
    caller: Caller
    batch: StoredBatch
    most: MaxCost
    lines: int = 0
    _total: Decimal = Decimal(0)
    _currency: str = ""

    async def add(self, piece: Sequence[RawLine]) -> BatchError | None:
        """Count valid lines. The error of one whose cost cannot be counted."""
        bodies = await in_cpu_thread(lambda: [parse(line.content)["body"] for line in piece])
        for raw, body in zip(piece, bodies, strict=True):
            cost = await cost_of_line(self.services, self.caller, self.batch, body)
            currency = self.most.currency or self._currency
            if cost.unknown or (currency and cost.currency not in ("", currency)):
                refusal = refusal_of(cost, MaxCost(cost.amount, currency))
                message = f"{HEADER} allows {self.most} for the batch, and {refusal}."
                return BatchError(ERROR_TYPE, message, raw.line)
            self._total += cost.amount
            self._currency = cost.currency or self._currency
            self.lines += 1
        return None

    def end(self) -> BatchError | None:
        """The error of a batch that costs too much, after its last line."""
        if self._total <= self.most.amount:
            return None
        sum_ = f"{self._total.normalize():f} {self._currency}"
        return BatchError(
            ERROR_TYPE,
            f"{HEADER} allows {self.most} for the batch, and its {self.lines} lines cost {sum_}. "
            "Nothing was queued.",
        )


def max_cost_of(batch: StoredBatch) -> MaxCost | None:
    """Most that a batch may cost. None: it may cost anything."""
    return None if batch.max_cost is None else parse_max_cost(batch.max_cost.encode())


async def cost_of_line(
    services: Services, caller: Caller, batch: StoredBatch, body: Any
) -> KnownCost:
    """What the call of a line costs; nothing if its input will be refused."""
    try:
        return await cost_of_call(services, caller, call_of(services, caller, batch, body))
    except InvalidInput:
        return KnownCost()
    except DatabaseUnavailable:
        raise  # it is counted again
    except DarkroomError as error:  # such as an endpoint that is not served now, and later is
        return KnownCost(unknown=error.message.rstrip("."))


async def cost_of_call(services: Services, caller: Caller, call: LineCall) -> KnownCost:
    """What a call costs. Raises its errors."""
    line = Submission(services, caller.tenant, call.endpoint, call.input, only_estimated=True)
    return await known_cost(await admit(line, PRICED))
