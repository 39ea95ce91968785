"""fal's webhooks: the webhook of a call, the bodies that are sent, and the keys of signatures."""

from __future__ import annotations

import json
from collections.abc import Hashable
from dataclasses import replace
from typing import Annotated, Any, cast

from pydantic import Field
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from typing_extensions import TypedDict

from serve_app.domain.errors import ArtifactNotFound, FieldProblem, InvalidInput, Unavailable
from serve_app.domain.outcome import Outcome
from serve_app.domain.ports import Queue
from serve_app.domain.request import NewRequest, Request, State
from serve_app.domain.webhook import ClaimedDelivery, Webhook
from serve_app.ingress.fal.status import status_details, version, wire_status
from serve_app.ingress.http import query
from serve_app.ingress.http.context import context_of
from serve_app.ingress.http.errors import encode_json, json_reply
from serve_app.ingress.http.openapi import DocumentedRoute, Operation, answer
from serve_app.ingress.http.route_scopes import NO_KEY
from serve_app.ingress.services.cpu_executor import in_cpu_thread
from serve_app.ingress.services.files import Files
from serve_app.ingress.services.services import Services, services_of
from serve_app.ingress.services.webhooks import MAX_BODY_BYTES, OUTCOME_WAIT_S, Webhooks
from serve_app.ingress.submission.failures import answer_for, failure_body
from serve_app.ingress.submission.rendering import NO_OUTCOME, output_of
from serve_app.ingress.submission.status import fallback_body, preview_url
from serve_app.webhooks.progress import ProgressState
from serve_app.webhooks.target import BadTarget

PARAMETER = "fal_webhook"


async def parse_webhook(
    request: HttpRequest, webhooks: Webhooks, origin: str, tenant: str
) -> Webhook | None:
    """Webhook from the query parameter ``fal_webhook``; None without it. ``InvalidInput``."""
    # Most calls have no query. Starlette would build an object for it.
    url = request.query_params.get(PARAMETER) if request.scope["query_string"] else None
    if url is None:
        return None
    try:
        return Webhook(await webhooks.targets.check(url, tenant), origin)
    except BadTarget as wrong:
        message = f"{PARAMETER} {wrong}"
        # Without the value: a URL may contain a password, and errors are logged.
        problem = FieldProblem(("query", PARAMETER), message, "value_error")
        raise InvalidInput(f"{message}.", (problem,)) from None


class Composer:
    """Builds the bodies. Equal outcomes have equal bytes."""

    def __init__(self, queue: Queue, files: Files) -> None:
        self._queue = queue
        self._files = files

    async def __call__(self, claimed: ClaimedDelivery) -> bytes:
        """Build the body. ``RequestNotFound``, ``StorageUnavailable``, ``DatabaseUnavailable``."""
        # A request that another process ended becomes known here a moment later.
        request = await self._queue.wait(claimed.tenant, claimed.request_id, OUTCOME_WAIT_S)
        outcome = request.outcome
        if outcome is None:
            raise Unavailable(f"The end of request {request.id} is not known here yet.")
        failure = outcome.failure
        if failure is None and outcome.output is None:
            failure = NO_OUTCOME
        if failure is not None:
            error = f"Invalid status code: {answer_for(failure).status}"
            rest = {"status": "ERROR", "error": error, "payload": failure_body(failure)}
            rest |= _about_fallback(request)
            return await in_cpu_thread(_encode_body, request.id, rest)
        return await self._success_body(request, outcome, claimed.origin)

    async def _success_body(self, request: Request, outcome: Outcome, origin: str) -> bytes:
        # Base64 needs four characters for three bytes.
        small = sum(artifact.size for artifact in outcome.artifacts) * 4 / 3 < MAX_BODY_BYTES
        inline = request.input.get("sync_mode") is True and small
        rest: dict[str, Any] = {"status": "OK", "payload": None} | _about_fallback(request)
        try:
            rest["payload"] = await output_of(
                outcome, self._files, origin, request.tenant, inline=inline
            )
            body = await in_cpu_thread(_encode_body, request.id, rest)
        except ArtifactNotFound as error:
            rest["payload_error"] = error.message
        except ValueError as error:  # NaN
            rest["payload_error"] = f"The output cannot be written as JSON: {error}"
        else:
            if len(body) <= MAX_BODY_BYTES:
                return body
            rest["payload_error"] = (
                f"The output exceeds {MAX_BODY_BYTES} bytes. Get it from the result's URL."
            )
        return _encode_body(request.id, {**rest, "payload": None})


def _about_fallback(request: Request) -> dict[str, Any]:
    """Field that only Darkroom has, for requests that did not run at their own endpoint."""
    fallback = fallback_body(request)
    return {} if fallback is None else {"darkroom": {"fallback": fallback}}


def _encode_body(request_id: str, rest: dict[str, Any]) -> bytes:
    """Encode the body. ``ValueError``: it has a value that JSON cannot represent."""
    return encode_json({"request_id": request_id, "gateway_request_id": request_id, **rest})


# Progress messages to fal's webhook before a request has ended.

PROGRESS_PARAMETER = "fal_webhook_progress"
YES, NO = ("1", "true"), ("0", "false")

MIN_INTERVAL_S = 1.0
"""Shortest time in seconds between two calls about a request."""


def wants_progress(request: HttpRequest) -> bool:
    """Return whether the query parameter ``fal_webhook_progress`` is on. ``InvalidInput``."""
    text = request.query_params.get(PROGRESS_PARAMETER)
    if text is None or text in NO:
        return False
    if text not in YES:
        raise query.invalid(PROGRESS_PARAMETER, f"should be one of {', '.join((*YES, *NO))}", text)
    if request.query_params.get(PARAMETER) is None:
        raise query.invalid(PROGRESS_PARAMETER, f"needs {PARAMETER}, the URL to call", text)
    return True


def reject_parameter(request: HttpRequest) -> None:
    """Refuse the parameter for calls that wait or stream progress. ``InvalidInput``."""
    if wants_progress(request):
        raise query.invalid(PROGRESS_PARAMETER, "is for submits to the queue", YES[0])


def mark_webhook(webhooks: Webhooks, new: NewRequest) -> NewRequest:
    """Mark ``new`` so that its end is sent only after all its progress messages."""
    if new.webhook is None:
        return new
    origin = webhooks.notifier.mark_origin(new.webhook.origin)
    return replace(new, webhook=Webhook(new.webhook.url, origin))


def follow(services: Services, request: Request, url: str, origin: str) -> None:
    """Send progress of the request to ``url``, which is already checked, from now on."""
    services.webhooks.notifier.follow(
        request, ProgressState(url, ProgressEvents(services, origin), MIN_INTERVAL_S)
    )


class ProgressEvents:
    """Builds a status message when a running request has made progress since the last one."""

    def __init__(self, services: Services, origin: str) -> None:
        self._services = services
        self._origin = origin
        self._sent: Hashable = None

    async def __call__(self, request: Request) -> bytes | None:
        now = version(request, 0)
        if request.state is not State.RUNNING or request.progress is None or now == self._sent:
            return None
        self._sent = now
        preview = preview_url(
            request, self._origin, has_previews=self._services.config.models.previews
        )
        ends_at = await self._services.queue.ends_at(request)
        body = {
            "request_id": request.id,
            "gateway_request_id": request.id,
            "status": wire_status(request),
            **status_details(request, None, ends_at, preview),
        }
        return json.dumps(body, separators=(",", ":")).encode()


# Public keys for the verification of webhooks, at the same path as fal's.


class Jwks(TypedDict):
    """JSON Web Key Set."""

    keys: Annotated[list[dict[str, Any]], Field(description="JSON Web Keys.")]


async def jwks(request: HttpRequest) -> Response:
    """Answer with a JSON Web Key Set. No API key is needed. Receivers may cache it for a day."""
    context_of(request).route = "fal.jwks"
    body = cast("Jwks", await services_of(request).webhooks.signer.jwks())
    return json_reply(body, headers={"cache-control": "public, max-age=3600"})


SHOW_JWKS = Operation(
    "jwks",
    "Show the public keys that verify webhooks",
    {200: answer("The keys.", Jwks)},
    tag="webhooks",
    key=False,
)

ROUTES = [
    DocumentedRoute("/.well-known/jwks.json", jwks, {"GET": SHOW_JWKS}, NO_KEY),
    DocumentedRoute(
        "/rest/.well-known/jwks.json", jwks, {"GET": replace(SHOW_JWKS, name="restJwks")}, NO_KEY
    ),
]
