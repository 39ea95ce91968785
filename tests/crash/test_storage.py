"""A bucket behind a proxy that breaks, real replicas that upload to it, and the real queue."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest

from deployments.families.base import load_families
from deployments.replica.config import (
    IngressCalls,
    IngressLink,
    ReplicaConfig,
    ReplicaIdentity,
    TransferConfig,
)
from deployments.replica.engine_replica import EngineReplica
from deployments.transfer.uploader import Backoff
from serve_app.domain.artifact import UploadTicket
from serve_app.domain.endpoint import Endpoint, Weights
from serve_app.domain.lease import Ask, Finish, LeaseKey, Verdict, Work
from serve_app.domain.media.upload_policy import UploadPolicy
from serve_app.domain.request import State
from serve_app.queue.queue import PostgresQueue
from serve_app.storage.keys import artifact_key, derived_token
from serve_app.storage.s3.storage import S3Storage
from serve_app.telemetry.clock import SystemClock
from tests.chaos.proxy import Lose, Proxy
from tests.crash.scene import Clients, Scene
from tests.deployments.waiting import until
from tests.fakes.terms import FakeTerms
from tests.queue.database import LONG_LEASES
from tests.queue.requests import POOL
from tests.storage.s3_servers import S3Server, moto

pytestmark = [
    # in Ray's own code
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]

PROBE = {"probe": "tests.fakes.family:ProbeFamily"}
WISH = {"steps": 2, "step_ms": 5, "artifact_bytes": 5000}
CONFIG = ReplicaConfig(
    slots=2,
    threads=1,
    device="cpu",
    calls=IngressCalls(report_interval_s=0.2),
    transfers=TransferConfig(upload_give_up_s=1.0),
)


class BucketTerms(FakeTerms):
    """Tickets of the bucket, for an endpoint of the probe's."""

    storage: S3Storage

    def endpoint(self, endpoint_id: str) -> Endpoint:
        return Endpoint(endpoint_id, "probe", Weights("probe"), "probe")

    def tickets(
        self,
        lease_key: LeaseKey,
        tenant: str,
        endpoint: Endpoint,
        input: Mapping[str, Any],
        file_access: str = "",
        upload_policy: UploadPolicy | None = None,
    ) -> tuple[UploadTicket, ...]:
        del tenant, endpoint, input, file_access, upload_policy
        token = derived_token(b"secret", lease_key.request_id, lease_key.attempt, lease_key.nonce)
        key = artifact_key(lease_key.request_id, lease_key.attempt, "image/png", token)
        return (self.storage.ticket(key, "image/png", 10**6, 600.0),)


class Watched:
    """The queue as a replica calls it; what it gets and hands in is written down."""

    def __init__(self, queue: PostgresQueue, scene: Scene) -> None:
        self._queue = queue
        self._history = scene.house.history

    def __getattr__(self, name: str) -> Any:
        return getattr(self._queue, name)

    async def ask(self, ask: Ask) -> Work:
        work = await self._queue.ask(ask)
        for lease in work.leases:
            self._history.note_lease(lease)
        return work

    async def finish(self, finish: Finish) -> Verdict:
        verdict = await self._queue.finish(finish)
        finished = self._history.finished
        accepted = verdict is not Verdict.FENCED and finish.outcome.succeeded
        if accepted and finish.lease_key not in finished:  # a repeat is answered alike
            finished.append(finish.lease_key)
        return verdict


@dataclass
class Bucket:
    """``through`` is how everybody reaches it but the checker."""

    server: S3Server
    name: str
    prefix: str
    through: Proxy

    def heal(self) -> None:
        self.through.heal()
        assert self.server.strict is not None
        self.server.strict.away = False

    def objects(self) -> dict[str, bytes]:
        client = self.server.client()
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=self.name)
        contents = {
            entry["Key"].removeprefix(self.prefix): client.get_object(
                Bucket=self.name, Key=entry["Key"]
            )["Body"].read()
            for page in pages
            for entry in page.get("Contents", ())
        }
        client.close()
        return contents


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    with moto() as server:
        yield server


@pytest.fixture
def terms() -> BucketTerms:
    return BucketTerms()


@pytest.fixture
async def bucket(s3: S3Server, terms: BucketTerms) -> AsyncIterator[Bucket]:
    host, _, port = s3.url.removeprefix("http://").partition(":")
    proxy = Proxy(lambda: asyncio.open_connection(host, int(port)))
    location = s3.new_bucket(endpoint_url=f"http://{host}:{await proxy.start()}")
    async with s3.storage(location) as storage:
        terms.storage = storage
        store = Bucket(s3, location.bucket, location.prefix, proxy)
        yield store
    store.heal()
    await proxy.aclose()


@asynccontextmanager
async def replicas(scene: Scene, queue: PostgresQueue, count: int) -> AsyncIterator[None]:
    from deployments.replica.deployment import make_resources  # noqa: PLC0415 - it imports Ray

    clock = SystemClock()
    backoff = Backoff(random.Random(1), first_s=0.05, most_s=0.3)  # noqa: S311
    fleet = [
        EngineReplica(
            IngressLink(
                Watched(queue, scene),
                ReplicaIdentity(f"r{number}", f"actor-r{number}", POOL),
                CONFIG.calls,
                clock,
                backoff,
            ),
            load_families(PROBE),
            partial(make_resources, CONFIG, PROBE, clock, backoff),
            CONFIG,
            end_process=lambda: None,
        )
        for number in range(count)
    ]
    await asyncio.gather(*(replica.start() for replica in fleet))
    try:
        yield
    finally:
        await asyncio.gather(*(replica.aclose() for replica in fleet))


async def stalls(scene: Scene, bucket: Bucket) -> None:
    """Until uploads were given up for it, and their requests handed back."""
    bucket.through.blackhole()
    await handed_back(scene)


async def says_503(scene: Scene, bucket: Bucket) -> None:
    assert bucket.server.strict is not None
    bucket.server.strict.away = True
    await handed_back(scene)


async def resets(scene: Scene, bucket: Bucket) -> None:
    for _ in range(8):
        await asyncio.sleep(0.05)
        bucket.through.reset()


async def loses_answers(scene: Scene, bucket: Bucket) -> None:
    """Lose the answers to uploads that arrived: they are repeated, and find what is theirs."""
    for number in range(4):
        bucket.through.lose(b"PUT /", Lose.ANSWER)
        await until(lambda least=number + 1: len(bucket.through.lost) >= least, 60.0)
    bucket.through.lost.clear()


async def is_slow(scene: Scene, bucket: Bucket) -> None:
    bucket.through.delay_s = 0.1


Break = Callable[[Scene, Bucket], Awaitable[None]]
BREAKS: tuple[Break, ...] = (stalls, says_503, resets, loses_answers, is_slow)


async def handed_back(scene: Scene) -> None:
    before = await given_back(scene)
    async with asyncio.timeout(60.0):
        while await given_back(scene) == before:  # noqa: ASYNC110 - the queue counts
            await asyncio.sleep(0.1)


async def given_back(scene: Scene) -> int:
    (queue,) = scene.house.queues
    counted = "SELECT count(*) FROM attempts WHERE ended = 'hand_back'"
    ((count,),) = await queue._database.rows(counted)  # type: ignore[attr-defined]
    return int(count)


@pytest.mark.long
async def test_however_storage_breaks_no_request_is_lost_and_each_has_the_files_of_one_attempt(
    scene: Scene, bucket: Bucket, chance: random.Random
) -> None:
    # No failure counts for what storage does, so none may end for it. No lease runs out: on a busy
    # machine that would count as one.
    (queue,) = await scene.ingresses(scene.near, limits=LONG_LEASES)
    async with replicas(scene, queue, 2):
        async with Clients(scene, 2, input=WISH) as clients:
            await clients.go_on(10)
            for breaks in chance.sample(BREAKS, len(BREAKS)):
                await breaks(scene, bucket)
                bucket.heal()
                await clients.go_on(5)
        for request_id in sorted(scene.house.history.accepted):
            ended = await scene.final(request_id)
            seen = (ended.state, ended.failures)
            assert seen == (State.SUCCEEDED, 0), await scene.log_of(request_id)
    scene.house.objects = await asyncio.to_thread(bucket.objects)
    await scene.check()
