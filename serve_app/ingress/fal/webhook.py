"""fal's webhooks: who is to be called, and what is told there."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from starlette.requests import Request as HttpRequest

from serve_app.domain.errors import ArtifactNotFound, FieldProblem, InvalidInput, Unavailable
from serve_app.domain.outcome import Outcome
from serve_app.domain.ports import Queue, Storage
from serve_app.domain.request import Request
from serve_app.domain.webhook import Claimed, Webhook
from serve_app.ingress.core import Core
from serve_app.ingress.fal.failure import answer_for, failure_body
from serve_app.ingress.fal.output import NO_OUTCOME, output_of
from serve_app.webhooks.target import BadTarget

NAME = "fal_webhook"

MOST_BYTES = 2 * 2**20
"""Of a body. Receivers refuse large ones; and so many are in memory as are on their way."""

WAIT_S = 5.0

_encode = json.JSONEncoder(
    ensure_ascii=False, allow_nan=False, check_circular=False, separators=(",", ":")
).encode


async def webhook_of(request: HttpRequest, core: Core, origin: str) -> Webhook | None:
    """The query parameter ``fal_webhook``; ``InvalidInput``."""
    # Nearly always there is no query, and Starlette would make an object of it.
    given = request.query_params.get(NAME) if request.scope["query_string"] else None
    if given is None:
        return None
    try:
        return Webhook(await core.webhooks.targets.check(given), origin)
    except BadTarget as wrong:
        message = f"{NAME} {wrong}"
        # Without the value: a URL may have a password in it, and errors get into logs.
        problem = FieldProblem(("query", NAME), message, "value_error")
        raise InvalidInput(f"{message}.", (problem,)) from None


class Composer:
    """Puts the bodies together: the same outcome, the same bytes."""

    def __init__(self, queue: Queue, storage: Storage) -> None:
        self._queue = queue
        self._storage = storage

    async def __call__(self, claimed: Claimed) -> bytes:
        """``RequestNotFound``; ``StorageUnavailable``, ``DatabaseUnavailable``."""
        # What another process ended is known here a moment later.
        request = await self._queue.wait(claimed.tenant, claimed.request_id, WAIT_S)
        outcome = request.outcome
        if outcome is None:
            raise Unavailable(f"The end of request {request.id} is not known here yet.")
        failure = outcome.failure
        if failure is None and outcome.output is None:
            failure = NO_OUTCOME
        if failure is not None:
            error = f"Invalid status code: {answer_for(failure).status}"
            rest = {"status": "ERROR", "error": error, "payload": failure_body(failure)}
            return await asyncio.to_thread(_encoded, request.id, rest)
        return await self._succeeded(request, outcome, claimed.origin)

    async def _succeeded(self, request: Request, outcome: Outcome, origin: str) -> bytes:
        # Base64 has four characters for three bytes.
        small = sum(each.size for each in outcome.artifacts) * 4 / 3 < MOST_BYTES
        inline = request.input.get("sync_mode") is True and small
        rest: dict[str, Any] = {"status": "OK", "payload": None}
        try:
            rest["payload"] = await output_of(outcome, self._storage, origin, inline=inline)
            body = await asyncio.to_thread(_encoded, request.id, rest)
        except ArtifactNotFound as error:
            rest["payload_error"] = error.message
        except ValueError as error:  # NaN, half of a surrogate pair
            rest["payload_error"] = f"The output cannot be written as JSON: {error}"
        else:
            if len(body) <= MOST_BYTES:
                return body
            rest["payload_error"] = (
                f"The output has more than {MOST_BYTES} bytes: ask for the result."
            )
        return _encoded(request.id, {**rest, "payload": None})


def _encoded(request_id: str, rest: dict[str, Any]) -> bytes:
    """``ValueError`` for what JSON does not know."""
    return _encode({"request_id": request_id, "gateway_request_id": request_id, **rest}).encode()
