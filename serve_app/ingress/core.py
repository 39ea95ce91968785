"""What the handlers work with. Set as ``app.state.core`` before the first call is served."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from starlette.requests import HTTPConnection

from serve_app.catalog.catalog import Catalog
from serve_app.domain.lifecycle import Lifecycles
from serve_app.domain.ports import Clock, Queue, Storage
from serve_app.domain.session import Sessions
from serve_app.ingress.background import Background
from serve_app.ingress.held import LastAnswers
from serve_app.ingress.lost_answers import LostAnswers
from serve_app.ingress.pools import PoolMap
from serve_app.ingress.readiness import Readiness
from serve_app.ingress.uploads import Uploads
from serve_app.ingress.webhooks import Webhooks
from serve_app.settings import Config
from serve_app.storage.tickets import TicketSigner
from serve_app.telemetry.metrics import Metrics
from serve_app.tenants.keys import Keys
from serve_app.tenants.tokens import Tokens
from serve_app.tenants.upload_tokens import UploadTokens

Figures = Callable[[], Awaitable[Sequence[Mapping[str, Any]]]]
Problems = Callable[[Collection[str]], Awaitable[Mapping[str, str]]]

LINGER_S = 0.05
"""For so long the end of an answer is held back whose loss is to be noticed."""


async def _no_figures() -> Sequence[Mapping[str, Any]]:
    return ()


async def _no_problems(hosted: Collection[str]) -> Mapping[str, str]:  # noqa: ARG001 the port's own
    return {}


@dataclass(frozen=True, slots=True)
class Core:
    """The collaborators of every handler. All are started; whoever made them closes them."""

    config: Config
    catalog: Catalog
    queue: Queue
    storage: Storage
    sessions: Sessions
    keys: Keys
    tokens: Tokens
    clock: Clock
    new_id: Callable[[], str]
    pools: PoolMap
    readiness: Readiness
    host_names: frozenset[str]  # that may stand in a Host header and get into URLs
    metrics: Metrics
    lifecycles: Lifecycles
    uploads: Uploads
    upload_tokens: UploadTokens
    webhooks: Webhooks
    tickets: TicketSigner | None = None  # None: storage takes uploads itself
    room: Callable[[], Awaitable[None]] | None = None  # raises when the disk is nearly full
    replicas: Figures = _no_figures  # for the status page: one JSON object each
    unplaceable: Problems = _no_problems  # a sentence by pool, of those that are not hosted
    linger_s: float = LINGER_S
    lost_answers: LostAnswers = field(default_factory=LostAnswers)
    answers: LastAnswers = field(default_factory=LastAnswers)
    background: Background = field(default_factory=Background)


def core_of(request: HTTPConnection) -> Core:
    return cast("Core", request.app.state.core)
