"""A whole ingress over fakes, with a replica that does what the input says."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette

from serve_app.catalog.catalog import Catalog, load
from serve_app.domain.addresses import Resolve, resolve
from serve_app.domain.ports import Clock
from serve_app.ingress.app import create_app
from serve_app.ingress.core import LINGER_S, Core
from serve_app.ingress.host_names import trusted_names
from serve_app.ingress.ids import RequestIds
from serve_app.ingress.pools import PoolMap
from serve_app.ingress.readiness import Readiness
from serve_app.ingress.replicate.webhook import Bodies
from serve_app.ingress.terms import CatalogTerms
from serve_app.ingress.uploads import Uploads
from serve_app.ingress.webhooks import Webhooks
from serve_app.queue.limits import QueueLimits
from serve_app.settings import Config, PoolConfig
from serve_app.telemetry.clock import SystemClock
from serve_app.telemetry.metrics import Metrics
from serve_app.tenants.keys import ADMIN, API
from serve_app.tenants.tokens import Tokens
from serve_app.tenants.upload_tokens import UploadTokens
from tests.fakes.keyring import FakeKeyRing
from tests.fakes.lifecycles import FakeLifecycles
from tests.fakes.liveness import FakeLiveness
from tests.fakes.queue import FakeQueue
from tests.fakes.signing_seeds import FakeSigningSeeds
from tests.fakes.storage import FakeStorage
from tests.fakes.uploads import FakeUploads
from tests.ingress.replica import ScriptedReplica

MODELS = Path(__file__).with_name("models.yaml")
HOST = "testserver"
ORIGIN = f"http://{HOST}"
DEMO = Path(__file__).parents[2] / "deployments" / "demo"
CATALOG = load(MODELS, demo=True, demo_dir=DEMO)  # here, because reading a file blocks
OTHERS = load(MODELS.with_name("other_models.yaml"), demo=True, demo_dir=DEMO)
"""For the tests of other protocols than fal's."""


@dataclass
class House:
    app: Starlette
    core: Core
    queue: FakeQueue
    storage: FakeStorage
    keys: FakeKeyRing
    uploads: FakeUploads
    lifecycles: FakeLifecycles
    replica: ScriptedReplica
    liveness: FakeLiveness
    key: str  # of the tenant `default`, with all scopes
    weak_key: str  # of the same tenant, with `api` only
    other_key: str  # of the tenant `other`

    def client(self, key: str | None = None) -> httpx.AsyncClient:
        """Speaks to the application in this process, with the strongest key unless told."""
        transport = httpx.ASGITransport(self.app)
        headers = {"Authorization": f"Key {key or self.key}"}
        return httpx.AsyncClient(transport=transport, base_url=ORIGIN, headers=headers)


@asynccontextmanager
async def built(
    *,
    clock: Clock | None = None,
    pools: Mapping[str, PoolConfig] | None = None,
    replica: bool = True,
    room: Any = None,
    catalog: Catalog = CATALOG,
    limits: QueueLimits | None = None,
    linger_s: float = LINGER_S,
    storage: Any = None,
    deliver: bool = False,
    names: Resolve = resolve,
    **settings: Any,
) -> AsyncGenerator[House]:
    """Started and, at the end, closed. ``deliver``: webhooks are sent, to whom ``names`` finds."""
    clock = clock or SystemClock()
    usual: dict[str, Any] = {"gpus": 0, "max_body_bytes": 1 << 20, "trusted_hosts": (HOST,)}
    config = Config(**usual | settings)
    storage = storage or FakeStorage(b"k" * 32, ORIGIN, clock)
    book = FakeUploads(clock)
    lifecycles = FakeLifecycles()
    terms = CatalogTerms(catalog, storage, config.max_artifact_bytes, names_secret=b"n" * 32)
    liveness = FakeLiveness()
    queue = FakeQueue(clock, terms, limits or QueueLimits(), liveness)
    keys = FakeKeyRing(clock, queue.operations.note)
    scripted = ScriptedReplica(queue, storage)
    metrics = Metrics(CollectorRegistry())
    seeds = FakeSigningSeeds(clock)
    compose = Bodies(queue, storage, catalog)
    core = Core(
        config=config,
        catalog=catalog,
        queue=queue,
        storage=storage,
        sessions=scripted,
        keys=keys,
        tokens=Tokens(b"t" * 32, clock),
        clock=clock,
        new_id=RequestIds(clock),
        pools=PoolMap(pools),
        readiness=Readiness({"storage": storage.check}, clock),
        host_names=trusted_names(config.host, config.trusted_hosts),
        lifecycles=lifecycles,
        uploads=Uploads(book, storage, config.max_upload_bytes),
        upload_tokens=UploadTokens(b"u" * 32, clock),
        metrics=metrics,
        webhooks=Webhooks(queue, queue.outbox, seeds, compose, config, clock, metrics, names),
        tickets=storage.tickets,
        room=room,
        linger_s=linger_s,
    )
    app = create_app()
    app.state.core = core
    house = House(
        app=app,
        core=core,
        queue=queue,
        storage=storage,
        keys=keys,
        replica=scripted,
        liveness=liveness,
        uploads=book,
        lifecycles=lifecycles,
        key=str(await keys.create("default", scopes=frozenset({API, ADMIN}))),
        weak_key=str(await keys.create("default")),
        other_key=str(await keys.create("other", scopes=frozenset({API, ADMIN}))),
    )
    if replica:
        await house.replica.start()
    if deliver:
        await core.webhooks.start()
    try:
        yield house
    finally:
        await core.background.join()
        await core.webhooks.aclose()
        await house.replica.aclose()
