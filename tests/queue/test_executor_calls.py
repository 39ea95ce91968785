"""What replicas of executors get from the ingress, over PostgreSQL."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from functools import partial
from secrets import token_urlsafe

import pytest

from serve_app.domain.endpoint import Endpoint, Weights
from serve_app.domain.errors import Fenced, Unsupported
from serve_app.domain.executors.hosted import HostedCall, NewCall
from serve_app.domain.executors.secrets import INSTALLATION, Secret
from serve_app.domain.operations import Actor
from serve_app.ingress.replica_calls import ExecutorCalls
from serve_app.postgres.comfyui import PostgresComfyUiBook
from serve_app.postgres.database import Database
from serve_app.postgres.hosted_calls import PostgresHostedCalls
from serve_app.queue.queue import PostgresQueue
from serve_app.queue.transactions.catalog_entries import PostgresAppBundles
from serve_app.queue.transactions.lease import is_held
from serve_app.tenants.hosted_jobs import UnwantedJobs
from serve_app.tenants.secrets import PostgresSecrets
from tests.fakes.fal_server import FalServer
from tests.fakes.provider_server import KEY
from tests.fakes.terms import FakeTerms
from tests.queue.database import Ingress
from tests.queue.requests import TENANT, done, lease, new

ME = Actor("key-1", "192.0.2.1")


class Terms(FakeTerms):
    """Every endpoint is of ``family`` and names ``secrets``."""

    family = "python"
    secrets: Sequence[str] = ("FAL_KEY",)

    def endpoint(self, endpoint_id: str) -> Endpoint | None:
        found = super().endpoint(endpoint_id)
        options = {"secrets": list(self.secrets)}
        return found and replace(found, family=self.family, options=options)


class Desk:
    def __init__(self, database: Database, queue: PostgresQueue) -> None:
        self.queue = queue
        self.terms = Terms()
        self.hosted = PostgresHostedCalls(database, release_after_s=0.0)
        self.secrets = PostgresSecrets(database, b"s" * 32)
        bundles = PostgresAppBundles(database)
        held = partial(is_held, database)
        self.calls = ExecutorCalls(
            *(self.terms, bundles, queue, queue.partials, held),
            *(self.secrets, self.hosted, PostgresComfyUiBook(database)),
        )


@pytest.fixture
async def desk(database: Database, ingress: Ingress) -> Desk:
    made = Desk(database, await ingress())
    await made.secrets.put(INSTALLATION, "FAL_KEY", "ours", ME)
    await made.secrets.put(INSTALLATION, "OTHER_KEY", "not named", ME)
    await made.secrets.put(TENANT, "FAL_KEY", "theirs", ME)
    await made.secrets.put("other", "FAL_KEY", "a stranger's", ME)
    return made


async def test_an_app_gets_the_named_secrets_of_the_installation_only(desk: Desk) -> None:
    await desk.queue.submit(new())
    held = (await lease(desk.queue)).held
    assert await desk.calls.call("secrets", held, TENANT) == (Secret("FAL_KEY", "", "ours"),)
    desk.terms.secrets = ()
    assert await desk.calls.call("secrets", held, TENANT) == ()


async def test_a_hosted_provider_gets_those_of_the_requests_tenant_first(desk: Desk) -> None:
    desk.terms.family = "fal"
    await desk.queue.submit(new())
    held = (await lease(desk.queue)).held
    found = await desk.calls.call("secrets", held, TENANT)
    assert found == (Secret("FAL_KEY", TENANT, "theirs"), Secret("FAL_KEY", "", "ours"))


async def test_a_lease_that_is_not_held_gets_no_secret(desk: Desk) -> None:
    await desk.queue.submit(new())
    held = (await lease(desk.queue)).held
    for wrong in (replace(held, nonce=held.nonce + 1), replace(held, attempt=7)):
        with pytest.raises(Fenced):
            await desk.calls.call("secrets", wrong, TENANT)
    await desk.queue.finish(done(held))
    with pytest.raises(Fenced):
        await desk.calls.call("secrets", held, TENANT)


def call(input_hash: str) -> NewCall:
    return NewCall(token_urlsafe(8), "fal https://queue.fal.run", "", "fal-ai/veo3", input_hash)


async def test_a_request_has_one_call_of_a_provider_whoever_asks(desk: Desk) -> None:
    await desk.queue.submit(new())
    held = (await lease(desk.queue)).held
    first = await desk.calls.call("begin_hosted_call", held, call("a"))
    again = await desk.calls.call("begin_hosted_call", held, call("a"))
    assert (first.fresh, again.fresh, again.id) == (True, False, first.id)
    assert await desk.calls.call("accept_hosted_call", first.id, "job-1", {"get": "x"})
    later = await desk.calls.call("begin_hosted_call", held, call("another input"))
    assert (later.id, later.state, later.provider_id) == (first.id, "accepted", "job-1")
    assert later.place == {"get": "x"}
    with pytest.raises(Fenced):
        await desk.calls.call("begin_hosted_call", replace(held, attempt=7), call("a"))


async def test_a_call_that_is_written_again_is_still_new_to_its_maker(desk: Desk) -> None:
    await desk.queue.submit(new())
    held, mine = (await lease(desk.queue)).held, call("a")
    assert (await desk.calls.call("begin_hosted_call", held, mine)).fresh
    assert (await desk.calls.call("begin_hosted_call", held, mine)).fresh
    assert not (await desk.calls.call("begin_hosted_call", held, call("a"))).fresh


async def test_a_job_of_a_provider_belongs_to_one_call(desk: Desk) -> None:
    calls: list[HostedCall] = []
    for number in range(2):
        await desk.queue.submit(new())
        held = (await lease(desk.queue)).held
        calls.append(await desk.calls.call("begin_hosted_call", held, call(str(number))))
    assert await desk.calls.call("accept_hosted_call", calls[0].id, "job-1", {})
    assert not await desk.calls.call("accept_hosted_call", calls[1].id, "job-1", {})
    assert await desk.calls.call("accept_hosted_call", calls[1].id, "job-2", {})
    assert not await desk.calls.call("end_hosted_call", calls[0].id, "repeated")


async def test_an_id_that_is_kept_again_is_kept_as_it_is(desk: Desk) -> None:
    """The answer of the first try was lost, as while an ingress restarts."""
    await desk.queue.submit(new())
    held = (await lease(desk.queue)).held
    made = await desk.calls.call("begin_hosted_call", held, call("a"))
    for _ in range(2):
        assert await desk.calls.call("accept_hosted_call", made.id, "job-1", {"get": "x"})
    assert not await desk.calls.call("accept_hosted_call", made.id, "job-2", {"get": "y"})
    later = await desk.calls.call("begin_hosted_call", held, call("a"))
    assert (later.state, later.provider_id, later.place) == ("accepted", "job-1", {"get": "x"})


async def test_equal_calls_are_sent_one_after_the_other(desk: Desk) -> None:
    await desk.queue.submit(new())
    await desk.queue.submit(new())
    first, second = (await lease(desk.queue)).held, (await lease(desk.queue)).held
    sending = await desk.calls.call("begin_hosted_call", first, call("a"))
    assert await desk.calls.call("begin_hosted_call", second, call("a")) is None
    assert await desk.calls.call("end_hosted_call", sending.id, "refused")
    assert (await desk.calls.call("begin_hosted_call", second, call("a"))).fresh
    assert await desk.calls.call("begin_hosted_call", first, call("a")) is None


async def test_a_call_of_an_ended_request_keeps_no_other_one_waiting(desk: Desk) -> None:
    await desk.queue.submit(new())
    await desk.queue.submit(new())
    first, second = (await lease(desk.queue)).held, (await lease(desk.queue)).held
    await desk.calls.call("begin_hosted_call", first, call("a"))
    assert await desk.calls.call("begin_hosted_call", second, call("a")) is None
    await desk.queue.finish(done(first))
    assert await desk.calls.call("begin_hosted_call", second, call("a")) is None
    assert (await desk.calls.call("begin_hosted_call", second, call("a"))).fresh


@pytest.fixture
async def fal() -> AsyncIterator[FalServer]:
    server = FalServer()
    await server.start()
    yield server
    await server.aclose()


async def test_a_job_whose_request_is_cancelled_between_attempts_is_ended(
    desk: Desk, database: Database, fal: FalServer
) -> None:
    """The replica has handed it back, so only the ingress knows of it."""
    await desk.secrets.put(INSTALLATION, "FAL_KEY", KEY, ME)
    fal.holds = True
    wanted, unwanted = [await fal.accepted("fal-ai/veo3", {}) for _ in range(2)]
    for _ in (wanted, unwanted):
        await desk.queue.submit(new())
    leases = [(await lease(desk.queue)).held for _ in (wanted, unwanted)]
    for job, held in zip((wanted, unwanted), leases, strict=True):
        made = await desk.calls.call("begin_hosted_call", held, call(job.id))
        url = f"{fal.origin}/fal-ai/veo3/requests/{job.id}/cancel"
        assert await desk.calls.call("accept_hosted_call", made.id, job.id, {"cancel": url})
        await desk.queue.hand_back(held, "r1", "It ends.")
    fell_back = "UPDATE attempts SET endpoint = 'acme/hosted' WHERE request_id = %(id)s RETURNING 1"
    assert await database.rows(fell_back, {"id": leases[1].request_id})
    await desk.queue.cancel(TENANT, leases[1].request_id)

    def endpoint(endpoint_id: str) -> Endpoint | None:
        if endpoint_id != "acme/hosted":
            return None
        hosted = {"endpoint": "fal-ai/veo3", "url": fal.origin}
        options = {"hosted": hosted, "secrets": ["FAL_KEY"]}
        return Endpoint(endpoint_id, "fal", Weights(""), "json", options=options)

    jobs = UnwantedJobs(desk.hosted, endpoint, desk.secrets)
    await jobs.sweep()
    assert (wanted.cancelled, unwanted.cancelled) == (False, True)
    await database.rows("UPDATE hosted_calls SET unwanted_at = now() WHERE unwanted_at IS NOT NULL")
    await jobs.sweep()
    assert len(fal.calls) == 1, "it has answered, so it is not called again"


async def test_a_deleted_request_leaves_no_call(desk: Desk, database: Database) -> None:
    request = await desk.queue.submit(new())
    held = (await lease(desk.queue)).held
    await desk.calls.call("begin_hosted_call", held, call("a"))
    await desk.queue.finish(done(held))
    await desk.queue.delete(TENANT, request.id)
    assert await database.rows("SELECT 1 FROM hosted_calls") == []


async def test_a_call_of_a_newer_replica_is_refused_by_name(desk: Desk) -> None:
    with pytest.raises(Unsupported, match="has no call teleport"):
        await desk.calls.call("teleport")
