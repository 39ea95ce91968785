"""Which of Replicate's events a prediction has had, for a webhook that asks for more than its
end."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any, Protocol

from serve_app.domain.errors import InvalidInput
from serve_app.domain.ports import Queue
from serve_app.domain.request import Request, State
from serve_app.ingress.fal.webhook import MOST_BYTES
from serve_app.ingress.replicate.prediction import Shelf, prediction
from serve_app.webhooks.herald import Story

START, OUTPUT, LOGS, COMPLETED = "start", "output", "logs", "completed"
EVENTS = (START, OUTPUT, LOGS, COMPLETED)

EVERY_S = 0.5
"""Logs are told no more often, as by Replicate."""


def events_of(body: Mapping[str, Any]) -> frozenset[str]:
    """``webhook_events_filter``: all, unless it says otherwise. ``InvalidInput``."""
    name = "webhook_events_filter"
    given = body.get(name)
    if given is None:
        return frozenset(EVENTS)
    if not isinstance(given, list) or not given or not all(each in EVENTS for each in given):
        raise InvalidInput.of_field(name, f"Input should be a list of {', '.join(EVENTS)}")
    return frozenset(given)


class Shop(Shelf, Protocol):
    """What the body of an event is put together from."""

    @property
    def queue(self) -> Queue: ...


class Plot:
    """Tells a prediction's events but ``completed``, each by the prediction as it is then."""

    def __init__(self, shop: Shop, events: frozenset[str], base: str) -> None:
        self._shop = shop
        self._events = events
        self._base = base
        self._started = False
        self._lines = 0
        self._steps = (0, 0)

    def story(self, url: str) -> Story:
        return Story(url, self, EVERY_S, to_the_end=COMPLETED not in self._events)

    async def __call__(self, request: Request) -> bytes | None:
        if not self._news(request):
            return None
        lines = await self._shop.queue.lines(request.tenant, request.id)
        told = await prediction(self._shop, request, self._base, lines, inline=False)
        body = await asyncio.to_thread(encoded, told)
        return body if len(body) <= MOST_BYTES else None

    def _news(self, request: Request) -> bool:
        if request.started_at is None and not request.state.final:
            return False
        news: set[str] = set()
        if not self._started and request.started_at is not None:
            news.add(START)
        self._started = True
        progress = request.progress
        # A stage without steps says nothing in the log.
        steps = (progress.step, progress.steps) if progress and progress.steps else self._steps
        if (request.events, steps) != (self._lines, self._steps):
            news.add(LOGS)
        self._lines, self._steps = request.events, steps
        if request.state is State.SUCCEEDED:
            news.add(OUTPUT)
        return bool(news & self._events)


def encoded(told: Mapping[str, Any]) -> bytes:
    return json.dumps(told, ensure_ascii=False, separators=(",", ":")).encode()
