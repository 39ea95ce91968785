"""Complete ingress over fakes, with a replica that follows orders in the input."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from prometheus_client import CollectorRegistry
from pydantic import SecretStr
from starlette.applications import Starlette
from starlette.middleware import Middleware

from serve_app.catalog.catalog import Catalog, load
from serve_app.diagnosis.checks import ingress_checks
from serve_app.domain.addresses import Resolve
from serve_app.domain.executors.comfyui import ComfyUiNodes
from serve_app.domain.name_resolution import NameResolver
from serve_app.domain.ports import Clock
from serve_app.domain.preflight import Download, HubState, MachineFacts
from serve_app.domain.sharing.admission import AdmissionControl
from serve_app.ingress.app import create_app
from serve_app.ingress.fal.webhooks import Composer
from serve_app.ingress.http.hosts import trusted_names
from serve_app.ingress.openai.batches.worker import BatchWorker
from serve_app.ingress.replicate.prediction import PredictionRenderer
from serve_app.ingress.replicate.webhooks import MARK, PredictionComposer
from serve_app.ingress.services.audit import AuditTrail
from serve_app.ingress.services.file_access import FileAccessControl, FileDefaults
from serve_app.ingress.services.files import Files, UploadLimits, Uploads
from serve_app.ingress.services.health import Examination, Health, Readiness
from serve_app.ingress.services.lease_terms import CatalogLeaseTerms, FilePolicy
from serve_app.ingress.services.live_catalog import LiveCatalog
from serve_app.ingress.services.live_tenants import LiveTenants
from serve_app.ingress.services.open_access import OpenAccess
from serve_app.ingress.services.pool_map import PoolMap
from serve_app.ingress.services.preflights import Preflights
from serve_app.ingress.services.replies import LAST_BYTE_DELAY_S, Replies
from serve_app.ingress.services.request_ids import RequestIds
from serve_app.ingress.services.services import Identity, Services
from serve_app.ingress.services.sign_in import provider_of, sign_in_of
from serve_app.ingress.services.warm_pools import WarmPools
from serve_app.ingress.services.webhooks import ComposeByMark, Webhooks
from serve_app.ingress.workflows.worker import WorkflowWorker
from serve_app.queue.store.config import QueueLimits
from serve_app.queue.transactions.catalog_entries import CatalogEntries
from serve_app.resources.declaration import Resource
from serve_app.resources.registry import RESOURCES
from serve_app.resources.secrets import SECRETS, SecretBook
from serve_app.settings import Config, PoolConfig, Secrets
from serve_app.storage.signed_urls import FileUrlSigner
from serve_app.telemetry.clock import SystemClock
from serve_app.telemetry.metrics import Metrics
from serve_app.tenants.scopes import ADMIN, API
from serve_app.tenants.tokens import StreamTokens, Tokens, UploadTokens
from tests.fakes.file_access import FakeFileAccess
from tests.fakes.held_weights import FakeHeldWeights, FakeLeader
from tests.fakes.keyring import FakeKeyRing
from tests.fakes.lifecycles import FakeLifecycles
from tests.fakes.liveness import FakeLiveness
from tests.fakes.queue import FakeQueue
from tests.fakes.storage import FakeStorage
from tests.fakes.uploads import FakeUploads
from tests.fakes.weight_book import FakeWeightBook
from tests.ingress.answers import CheckedAnswers, contract_of
from tests.ingress.books import MakeBooks, fakes
from tests.ingress.replica import ScriptedReplica

MODELS = Path(__file__).with_name("models.yaml")
HOST = "testserver"
PROXY_SECRET = "p" * 32
ORIGIN = f"http://{HOST}"
DEMO = Path(__file__).parents[2] / "deployments" / "demo"
CATALOG = load(MODELS, demo=True, demo_dir=DEMO)  # at import, because reading a file blocks
OTHERS = load(MODELS.with_name("other_models.yaml"), demo=True, demo_dir=DEMO)
"""Aliases for the tests of protocols other than fal's."""

UNKNOWN = Download(None, None, HubState.NOT_ASKED, "unknown")
"""Of a hub that nobody has asked."""


@dataclass
class House:
    app: Starlette
    services: Services
    queue: FakeQueue
    storage: FakeStorage
    keys: FakeKeyRing
    uploads: FakeUploads
    lifecycles: FakeLifecycles
    rules: FakeFileAccess
    replica: ScriptedReplica
    weights: FakeWeightBook
    liveness: FakeLiveness
    key: str  # of the tenant `default`, with all scopes
    weak_key: str  # of the same tenant, with `api` only
    other_key: str  # of the tenant `other`

    def client(self, key: str | None = None) -> httpx.AsyncClient:
        """Client of the application in this process, with the strongest key by default."""
        transport = httpx.ASGITransport(self.app)
        headers = {"Authorization": f"Key {key or self.key}"}
        return httpx.AsyncClient(transport=transport, base_url=ORIGIN, headers=headers)


async def run_batches(worker: BatchWorker) -> None:
    """Rounds of the worker, more often than in production, until the task is cancelled."""
    while True:
        await worker.validate()
        await worker.advance()
        await asyncio.sleep(0.02)


async def run_workflows(worker: WorkflowWorker) -> None:
    """Rounds of the worker, more often than in production, until the task is cancelled."""
    while True:
        await worker.advance()
        await worker.tidy()
        await asyncio.sleep(0.02)


@asynccontextmanager
async def build_house(
    *,
    clock: Clock | None = None,
    pools: Mapping[str, PoolConfig] | None = None,
    replica: bool = True,
    room: Any = None,
    artifact_room: Any = None,
    catalog: Catalog = CATALOG,
    linger_s: float = LAST_BYTE_DELAY_S,
    storage: Any = None,
    deliver: bool = False,
    batches: bool = False,
    workflows: bool = False,
    names: Resolve | None = None,
    entries: CatalogEntries | None = None,
    documented: Catalog | None = None,
    resources: Sequence[Resource[Any]] = RESOURCES,
    books: MakeBooks = fakes,
    **settings: Any,
) -> AsyncGenerator[House]:
    """A started house, closed at the end. ``deliver``: send webhooks to the hosts in ``names``.
    ``batches``, ``workflows``: run the worker of batches, or of workflows.
    ``models``: a file in place of ``catalog``. ``entries``: those of the database. ``documented``:
    endpoints that answers are compared with, if they are not those of ``catalog``. ``resources``:
    more than Darkroom's own. ``books``: where all is kept."""
    clock = clock or SystemClock()
    usual: dict[str, Any] = {"gpus": 0, "max_body_bytes": 1 << 20, "trusted_hosts": (HOST,)}
    config = Config(**usual | settings, pools=pools)
    served, catalog = catalog, Catalog({})  # tests may change their own
    catalog.become(served)
    storage = storage or FakeStorage(b"k" * 32, ORIGIN, clock)
    signer = FileUrlSigner(b"f" * 32, clock)
    terms = CatalogLeaseTerms(
        catalog,
        storage,
        config.limits.max_artifact_bytes,
        files_url=f"http://127.0.0.1:{config.server.port}",
        files=FilePolicy(signer=signer),
        names_secret=b"n" * 32,
    )
    liveness = FakeLiveness()
    queue_limits = QueueLimits.of(config)
    async with books(clock, terms, queue_limits, liveness) as kept:
        queue, keys = kept.queue, kept.keys
        scripted = ScriptedReplica(queue, storage, partials=kept.partials)
        metrics = Metrics(CollectorRegistry())
        defaults = FileDefaults.of(config)
        access = FileAccessControl(kept.rules, signer, defaults, clock)
        check: dict[str, Any] = {}
        if room is not None:
            check |= {"check_disk_space": room, "check_disk_for_upload": room}
        if artifact_room is not None:
            check["check_disk_for_artifact"] = artifact_room
        files = Files(
            storage=storage,
            uploads=Uploads(
                kept.uploads, storage, UploadLimits.of(config), access, metrics=metrics
            ),
            access=access,
            lifecycles=kept.lifecycles,
            tickets=storage.tickets,
            **check,
        )
        compose = ComposeByMark(
            Composer(queue, files),
            {MARK: PredictionComposer(queue, PredictionRenderer(files))},
            access.signed_again,
        )
        stored = entries or kept.entries
        live = LiveCatalog(stored, config, catalog, kept.weights, queue.workflows.definitions)
        if config.models.models is not None:
            await live.use(config)
        tenants = LiveTenants(kept.tenants, kept.deletions, frozenset({"acme"}))
        services = Services(
            config=config,
            file_config=config,
            host_names=trusted_names(config.server.host, config.server.trusted_hosts),
            catalog=catalog,
            entries=live,
            bundles=kept.bundles,
            comfyui=ComfyUiNodes(kept.comfyui, clock),
            partials=kept.partials,
            pools=PoolMap(pools),
            queue=queue,
            files=files,
            identity=Identity(
                keys,
                Tokens(b"t" * 32, clock),
                UploadTokens(b"u" * 32, clock),
                StreamTokens(b"t" * 32, clock),
                tenants,
                sign_in_of(
                    config, Secrets(oidc_client_secret=SecretStr("secret")), b"s" * 32, clock
                ),
            ),
            sessions=scripted,
            webhooks=Webhooks(
                *(queue, kept.outbox, kept.seeds, compose, config, clock, metrics),
                names or NameResolver(),
            ),
            health=Health(
                Readiness({"storage": storage.check}, clock),
                examination=Examination(
                    lambda: [
                        (
                            "real models",
                            lambda: app.state.services.preflights.summary(catalog),
                        ),
                        *ingress_checks(
                            *(Config(**{"data_dir": Path.cwd()} | usual | settings), Secrets()),
                            lambda: provider_of(config, Secrets(), clock),
                        ),
                    ]
                ),
            ),
            preflights=Preflights(
                lambda wanted: {plan.id: UNKNOWN for plan in wanted},
                lambda: MachineFacts(0),
                lambda: 1,
                clock,
            ),
            clock=clock,
            admission=AdmissionControl(clock, 16 * config.limits.max_body_bytes),
            new_id=RequestIds(clock),
            metrics=metrics,
            audit=AuditTrail(queue.operations, clock),
            warm=WarmPools(
                queue.operations,
                FakeHeldWeights(),
                lambda: app.state.services.pools,
                catalog,
                clock,
                FakeLeader(),
            ),
            weights=kept.weights,
            tables=kept.tables,
            jobs=kept.jobs,
            secrets=SecretBook(kept.tables.of(SECRETS), b"s" * 32),
            resources=resources,
            open_access=OpenAccess(every_s=0.05),
            proxy_secret=PROXY_SECRET,
            replies=Replies(last_byte_delay_s=linger_s),
        )
        app = create_app(resources)
        problems: list[str] = []
        app.user_middleware.append(
            Middleware(
                CheckedAnswers,
                contract=contract_of(documented or served, resources),
                problems=problems,
            )
        )
        app.state.services = services
        house = House(
            app=app,
            services=services,
            queue=queue,
            storage=storage,
            keys=keys,
            replica=scripted,
            weights=kept.weights,
            liveness=liveness,
            uploads=kept.uploads,
            lifecycles=kept.lifecycles,
            rules=kept.rules,
            key=str(await keys.create("default", scopes=frozenset({API, ADMIN}))),
            weak_key=str(await keys.create("default")),
            other_key=str(await keys.create("other", scopes=frozenset({API, ADMIN}))),
        )

        def limit() -> None:
            services.config = tenants.merge_limits(services.file_config)
            defaults.become(FileDefaults.of(services.config))
            queue_limits.become(QueueLimits.of(services.config, tenants.disabled, catalog.bases))

        tenants.start(limit)
        live.on_change = limit
        await access.start()
        services.open_access.start()
        if replica:
            await house.replica.start()
        if deliver:
            await services.webhooks.start()
        working = [asyncio.create_task(run_batches(BatchWorker(services)))] if batches else []
        if workflows:
            working.append(asyncio.create_task(run_workflows(WorkflowWorker(services))))
        try:
            yield house
        finally:
            for task in working:
                task.cancel()
            await asyncio.gather(*working, return_exceptions=True)
            await services.open_access.aclose()
            await tenants.aclose()
            await access.aclose()
            await services.background.join()
            await services.webhooks.aclose()
            await house.replica.aclose()
        assert not problems, problems
