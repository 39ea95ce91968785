"""Replicate's webhooks: who is to be called, what is told there, and the secret that proves it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from serve_app.catalog.catalog import Catalog
from serve_app.domain.errors import InvalidInput, Unavailable
from serve_app.domain.ports import Queue, Storage
from serve_app.domain.request import Request
from serve_app.domain.webhook import Claimed, Webhook
from serve_app.ingress.caller import caller_of
from serve_app.ingress.core import Core, core_of
from serve_app.ingress.fal.webhook import MOST_BYTES, WAIT_S, Composer
from serve_app.ingress.replicate.events import COMPLETED, Plot, encoded, events_of
from serve_app.ingress.replicate.prediction import PREFIX, prediction
from serve_app.ingress.reply import json_reply
from serve_app.webhooks.herald import Herald
from serve_app.webhooks.target import BadTarget

MARK = "#replicate"
"""Behind the origin of a webhook whose body is a prediction. No origin has a fragment."""


@dataclass(frozen=True, slots=True)
class Asked:
    """Whom to call, and when."""

    url: str  # checked
    events: frozenset[str]
    origin: str

    def webhook(self, herald: Herald) -> Webhook | None:
        """The end's, if that is to be told."""
        if COMPLETED not in self.events:
            return None
        origin = self.origin + MARK
        return Webhook(self.url, herald.marked(origin) if self.more else origin)

    @property
    def more(self) -> bool:
        """Something but the end is to be told."""
        return bool(self.events - {COMPLETED})

    def follow(self, core: Core, request: Request) -> None:
        """Tell of it from now on what its end's webhook does not."""
        if self.more:
            plot = Plot(core, self.events, self.origin + PREFIX)
            core.webhooks.herald.follow(request, plot.story(self.url))


async def asked_of(body: Mapping[str, Any], core: Core, origin: str) -> Asked | None:
    """The body's ``webhook`` with its ``webhook_events_filter``, or ``webhook_completed``, which is
    older and is called at the end only; ``InvalidInput``."""
    name = next((each for each in ("webhook", "webhook_completed") if body.get(each)), None)
    if name is None:
        return None
    events = events_of(body) if name == "webhook" else frozenset({COMPLETED})
    url = body[name]
    if not isinstance(url, str):
        raise InvalidInput.of_field(name, "Input should be a URL", "string_type")
    try:
        return Asked(await core.webhooks.targets.check(url), events, origin)
    except BadTarget as wrong:
        raise InvalidInput.of_field(name, f"{name} {wrong}") from None


@dataclass(frozen=True, slots=True)
class Bodies:
    """Puts the bodies of all webhooks together, each in the words of the protocol by which it was
    asked for."""

    queue: Queue
    storage: Storage
    catalog: Catalog

    async def __call__(self, claimed: Claimed) -> bytes:
        """As ``Composer``'s."""
        if not claimed.origin.endswith(MARK):
            return await Composer(self.queue, self.storage)(claimed)
        # What another process ended is known here a moment later.
        request = await self.queue.wait(claimed.tenant, claimed.request_id, WAIT_S)
        if not request.state.final:
            raise Unavailable(f"The end of request {request.id} is not known here yet.")
        lines = await self.queue.lines(request.tenant, request.id)
        base = claimed.origin.removesuffix(MARK) + PREFIX
        files = request.outcome.artifacts if request.outcome else ()
        # Base64 has four characters for three bytes.
        inline = sum(each.size for each in files) * 4 / 3 < MOST_BYTES
        told = await prediction(self, request, base, lines, inline=inline)
        return await asyncio.to_thread(encoded, told)


async def secret(request: HttpRequest) -> Response:
    """With it a receiver checks the signature, as Replicate's client does. The tenant's own."""
    caller = await caller_of(request)
    secrets = await core_of(request).webhooks.signer.secrets_of(caller.tenant)
    return json_reply({"key": secrets[-1]}, headers={"cache-control": "no-store"})
