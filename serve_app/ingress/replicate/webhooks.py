"""Replicate's webhooks: their URL and events, their bodies, and the secret of their signatures."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from typing_extensions import TypedDict

from serve_app.domain.errors import InvalidInput, Unavailable
from serve_app.domain.ports import Queue
from serve_app.domain.request import Request, State
from serve_app.domain.webhook import ClaimedDelivery, Webhook
from serve_app.ingress.http.auth import authenticate
from serve_app.ingress.http.errors import json_reply
from serve_app.ingress.http.openapi import Operation, answer
from serve_app.ingress.replicate.errors import ERRORS, TAG
from serve_app.ingress.replicate.prediction import PREFIX, PredictionRenderer, renderer_of
from serve_app.ingress.services.cpu_executor import in_cpu_thread
from serve_app.ingress.services.services import Services, services_of
from serve_app.ingress.services.webhooks import MAX_BODY_BYTES, OUTCOME_WAIT_S, Webhooks
from serve_app.webhooks.progress import ProgressNotifier, ProgressState
from serve_app.webhooks.target import BadTarget

# Events of a prediction for Replicate's webhooks.

START, OUTPUT, LOGS, COMPLETED = "start", "output", "logs", "completed"
EVENTS = (START, OUTPUT, LOGS, COMPLETED)

MIN_INTERVAL_S = 0.5
"""Shortest time in seconds between two events with logs, as at Replicate."""


def events_of(body: Mapping[str, Any]) -> frozenset[str]:
    """Read ``webhook_events_filter``; all events by default. ``InvalidInput``."""
    name = "webhook_events_filter"
    events = body.get(name)
    if events is None:
        return frozenset(EVENTS)
    if not isinstance(events, list) or not events or not all(event in EVENTS for event in events):
        raise InvalidInput.of_field(name, f"Input should be a list of {', '.join(EVENTS)}")
    return frozenset(events)


class EventBuilder:
    """Builds a prediction's events, apart from ``completed``. Each has the prediction's present
    state."""

    def __init__(
        self, queue: Queue, renderer: PredictionRenderer, events: frozenset[str], base: str
    ) -> None:
        self._queue = queue
        self._renderer = renderer
        self._events = events
        self._base = base
        self._started = False
        self._lines = 0
        self._steps = (0, 0)

    def progress_state(self, url: str) -> ProgressState:
        return ProgressState(url, self, MIN_INTERVAL_S, to_the_end=COMPLETED not in self._events)

    async def __call__(self, request: Request) -> bytes | None:
        if not self._has_wanted_event(request):
            return None
        lines = await self._queue.lines(request.tenant, request.id)
        prediction = await self._renderer.render(request, self._base, lines, inline=False)
        body = await in_cpu_thread(encode_prediction, prediction)
        return body if len(body) <= MAX_BODY_BYTES else None

    def _has_wanted_event(self, request: Request) -> bool:
        if request.started_at is None and not request.state.final:
            return False
        happened: set[str] = set()
        if not self._started and request.started_at is not None:
            happened.add(START)
        self._started = True
        progress = request.progress
        # A stage without steps says nothing in the log.
        steps = (progress.step, progress.steps) if progress and progress.steps else self._steps
        if (request.events, steps) != (self._lines, self._steps):
            happened.add(LOGS)
        self._lines, self._steps = request.events, steps
        if request.state is State.SUCCEEDED:
            happened.add(OUTPUT)
        return bool(happened & self._events)


def encode_prediction(prediction: Mapping[str, Any]) -> bytes:
    return json.dumps(prediction, ensure_ascii=False, separators=(",", ":")).encode()


MARK = "#replicate"
"""Suffix of the origin of a webhook whose body is a prediction. No origin has a fragment."""


@dataclass(frozen=True, slots=True)
class WebhookRequest:
    """Webhook of a call: its URL and its events."""

    url: str  # checked
    events: frozenset[str]
    origin: str

    def webhook(self, notifier: ProgressNotifier) -> Webhook | None:
        """Webhook of the end; None if ``completed`` is not among the events."""
        if COMPLETED not in self.events:
            return None
        origin = self.origin + MARK
        return Webhook(self.url, notifier.mark_origin(origin) if self.more else origin)

    @property
    def more(self) -> bool:
        """True if there are events other than the end."""
        return bool(self.events - {COMPLETED})

    def follow(self, services: Services, request: Request) -> None:
        """Send the events other than the end from now on."""
        if self.more:
            builder = EventBuilder(
                services.queue, renderer_of(services), self.events, self.origin + PREFIX
            )
            services.webhooks.notifier.follow(request, builder.progress_state(self.url))


async def parse_webhook(
    body: Mapping[str, Any], webhooks: Webhooks, origin: str, tenant: str
) -> WebhookRequest | None:
    """Read ``webhook`` with its ``webhook_events_filter``, or ``webhook_completed``.

    The latter is older and is called at the end only. ``InvalidInput``.
    """
    name = next((key for key in ("webhook", "webhook_completed") if body.get(key)), None)
    if name is None:
        return None
    events = events_of(body) if name == "webhook" else frozenset({COMPLETED})
    url = body[name]
    if not isinstance(url, str):
        raise InvalidInput.of_field(name, "Input should be a URL", "string_type")
    try:
        return WebhookRequest(await webhooks.targets.check(url, tenant), events, origin)
    except BadTarget as wrong:
        raise InvalidInput.of_field(name, f"{name} {wrong}") from None


@dataclass(frozen=True, slots=True)
class PredictionComposer:
    """Builds the bodies of webhooks whose origin ends with ``MARK``: predictions."""

    queue: Queue
    renderer: PredictionRenderer

    async def __call__(self, claimed: ClaimedDelivery) -> bytes:
        """Build the body. ``RequestNotFound``, ``StorageUnavailable``, ``DatabaseUnavailable``."""
        # A request that another process ended becomes known here a moment later.
        request = await self.queue.wait(claimed.tenant, claimed.request_id, OUTCOME_WAIT_S)
        if not request.state.final:
            raise Unavailable(f"The end of request {request.id} is not known here yet.")
        lines = await self.queue.lines(request.tenant, request.id)
        base = claimed.origin.removesuffix(MARK) + PREFIX
        files = request.outcome.artifacts if request.outcome else ()
        # Base64 needs four characters for three bytes.
        inline = sum(file.size for file in files) * 4 / 3 < MAX_BODY_BYTES
        prediction = await self.renderer.render(request, base, lines, inline=inline)
        return await in_cpu_thread(encode_prediction, prediction)


class WebhookSecret(TypedDict):
    key: str


async def secret(request: HttpRequest) -> Response:
    """Answer with the tenant's secret. Receivers verify signatures with it, as Replicate's client
    does."""
    caller = await authenticate(request)
    secrets = await services_of(request).webhooks.signer.secrets_of(caller.tenant)
    body: WebhookSecret = {"key": secrets[-1]}
    return json_reply(body, headers={"cache-control": "no-store"})


SHOW_SECRET = Operation(
    "replicateGetWebhookSecret",
    "Show the secret that verifies webhooks",
    {200: answer("The secret.", WebhookSecret)},
    tag=TAG,
    error_format=ERRORS,
)
