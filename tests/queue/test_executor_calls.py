"""What replicas of executors get from the ingress, over PostgreSQL."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import replace
from secrets import token_urlsafe
from typing import Any

import pytest

from serve_app.domain.artifact import Artifact, UploadTicket
from serve_app.domain.audit.acts import Actor
from serve_app.domain.endpoint import Endpoint, Weights
from serve_app.domain.errors import Fenced, Unsupported
from serve_app.domain.executors.fallback import FallbackMove, FallbackReason
from serve_app.domain.executors.hosted import HostedCall, NewCall
from serve_app.domain.executors.secrets import INSTALLATION, Secret
from serve_app.domain.lease import LeaseKey
from serve_app.domain.outcome import Outcome
from serve_app.domain.request import NONE, Request, State
from serve_app.ingress.replica_calls import ExecutorCalls
from serve_app.ingress.services.hosted_jobs import HostedJobEnding
from serve_app.ingress.services.lease_terms import TICKET_VALID_S
from serve_app.jobs.postgres import PostgresJobs
from serve_app.jobs.worker import JobWorker
from serve_app.postgres.comfyui import PostgresComfyUiBook
from serve_app.postgres.database import Database
from serve_app.postgres.hosted_calls import PostgresHostedCalls
from serve_app.queue.queue import PostgresQueue
from serve_app.queue.transactions.catalog_entries import PostgresAppBundles
from serve_app.queue.transactions.lease import EXPECTED_S, ExecutorLeases
from serve_app.resources.postgres_table import PostgresTable
from serve_app.resources.secrets import SECRETS, SecretBook
from tests.contract.test_fallbacks_contract import CENT, plan
from tests.contract.waiting import eventually
from tests.fakes.fal_server import FalServer
from tests.fakes.liveness import FakeLiveness
from tests.fakes.provider_server import KEY
from tests.fakes.terms import FakeTerms
from tests.queue.database import Ingress
from tests.queue.requests import TENANT, failure, lease, make_finish, new
from tests.queue.unwanted_files import take_files

ME = Actor("key-1", "192.0.2.1")


class Terms(FakeTerms):
    """Every endpoint is of ``family`` and names ``secrets``."""

    family = "python"
    secrets: Sequence[str] = ("FAL_KEY",)

    def endpoint(self, endpoint_id: str) -> Endpoint | None:
        original = super().endpoint(endpoint_id)
        options = {"secrets": list(self.secrets)}
        return original and replace(original, family=self.family, options=options)


class Desk:
    def __init__(self, database: Database, queue: PostgresQueue) -> None:
        self.database = database
        self.queue = queue
        self.terms = Terms()
        self.hosted = PostgresHostedCalls(database, release_after_s=0.0)
        self.secrets = SecretBook(PostgresTable(database, SECRETS), b"s" * 32)
        bundles = PostgresAppBundles(database)
        self.calls = ExecutorCalls(
            *(self.terms, bundles, queue, queue.partials, ExecutorLeases(database)),
            *(self.secrets, self.hosted, PostgresComfyUiBook(database)),
        )


@pytest.fixture
async def desk(database: Database, ingress: Ingress) -> Desk:
    new_desk = Desk(database, await ingress())
    await new_desk.secrets.put(INSTALLATION, "FAL_KEY", "ours", ME)
    await new_desk.secrets.put(INSTALLATION, "OTHER_KEY", "not named", ME)
    await new_desk.secrets.put(TENANT, "FAL_KEY", "theirs", ME)
    await new_desk.secrets.put("other", "FAL_KEY", "a stranger's", ME)
    return new_desk


async def test_an_app_gets_the_named_secrets_of_the_installation_only(desk: Desk) -> None:
    await desk.queue.submit(new())
    lease_key = (await lease(desk.queue)).key
    assert await desk.calls.call("secrets", lease_key, TENANT) == (Secret("FAL_KEY", "", "ours"),)
    desk.terms.secrets = ()
    assert await desk.calls.call("secrets", lease_key, TENANT) == ()


async def test_a_hosted_provider_gets_those_of_the_requests_tenant_first(desk: Desk) -> None:
    desk.terms.family = "fal"
    await desk.queue.submit(new())
    lease_key = (await lease(desk.queue)).key
    secrets = await desk.calls.call("secrets", lease_key, TENANT)
    assert secrets == (Secret("FAL_KEY", TENANT, "theirs"), Secret("FAL_KEY", "", "ours"))


async def test_a_lease_that_is_not_held_gets_no_secret(desk: Desk) -> None:
    await desk.queue.submit(new())
    lease_key = (await lease(desk.queue)).key
    for wrong in (replace(lease_key, nonce=lease_key.nonce + 1), replace(lease_key, attempt=7)):
        with pytest.raises(Fenced):
            await desk.calls.call("secrets", wrong, TENANT)
    await desk.queue.finish(make_finish(lease_key))
    with pytest.raises(Fenced):
        await desk.calls.call("secrets", lease_key, TENANT)


async def file_of(desk: Desk, lease_key: LeaseKey) -> str:
    """Key of a file that an executor is about to upload."""
    return str((await desk.calls.call("file_ticket", lease_key, TENANT, 0, "image/png")).key)


async def all_due(database: Database) -> None:
    await database.rows("UPDATE jobs SET due_at = now() WHERE kind = 'file'")


async def test_a_file_of_an_attempt_that_ends_without_it_is_deleted_after_its_ticket(
    desk: Desk, database: Database
) -> None:
    await desk.queue.submit(new())
    lease_key = (await lease(desk.queue)).key
    key = await file_of(desk, lease_key)
    ((left_s,),) = await database.rows(
        "SELECT extract(epoch FROM due_at - now()) FROM jobs WHERE kind = 'file'"
    )
    assert TICKET_VALID_S < left_s <= EXPECTED_S
    await all_due(database)
    assert await take_files(database) == [], "an attempt may take longer than its tickets are valid"
    await desk.queue.hand_back(lease_key, "r1", "It ends.")
    await all_due(database)
    assert key in await take_files(database)  # beside those of its other tickets


async def test_the_thumbnail_of_a_file_is_kept_or_deleted_with_it(
    desk: Desk, database: Database
) -> None:
    desk.terms.thumbnails = True
    await desk.queue.submit(new())
    attempts = list[tuple[str, str]]()
    for _ in range(2):
        lease_key = (await lease(desk.queue)).key
        ticket: UploadTicket = await desk.calls.call(
            "file_ticket", lease_key, TENANT, 0, "image/png"
        )
        assert ticket.thumbnail is not None
        attempts.append((ticket.key, ticket.thumbnail.key))
        if len(attempts) == 1:
            await desk.queue.hand_back(lease_key, "r1", "It ends.")
    file, small = (Artifact(key, "image/png", 3, "ab" * 32) for key in attempts[1])
    stored = (replace(file, thumbnail=small),)
    await desk.queue.finish(make_finish(lease_key, Outcome(output={}, artifacts=stored)))
    await all_due(database)
    taken = await take_files(database)
    assert {*attempts[0]} <= {*taken}
    assert not {*attempts[1]} & {*taken}


async def test_a_file_that_a_success_names_stays(desk: Desk, database: Database) -> None:
    await desk.queue.submit(new())
    lease_key = (await lease(desk.queue)).key
    key, other = await file_of(desk, lease_key), "r/other/1/a.png"
    leases = ExecutorLeases(database)
    await leases.expect_files([other])
    file = Artifact(key, "image/png", 3, "ab" * 32, width=8, height=8)
    await desk.queue.finish(
        make_finish(lease_key, Outcome(output={"file": key}, artifacts=(file,)))
    )
    assert await database.rows("SELECT key FROM jobs WHERE kind = 'file'") == [(other,)]
    await leases.expect_files([key])  # a call that was on its way when the request ended
    await all_due(database)
    assert await take_files(database) == [other]


def call(input_hash: str) -> NewCall:
    return NewCall(token_urlsafe(8), "fal https://queue.fal.run", "", "fal-ai/veo3", input_hash)


async def test_a_request_has_one_call_of_a_provider_whoever_asks(desk: Desk) -> None:
    await desk.queue.submit(new())
    lease_key = (await lease(desk.queue)).key
    first = await desk.calls.call("begin_hosted_call", lease_key, call("a"))
    again = await desk.calls.call("begin_hosted_call", lease_key, call("a"))
    assert (first.fresh, again.fresh, again.id) == (True, False, first.id)
    assert await desk.calls.call("accept_hosted_call", first.id, "job-1", {"get": "x"})
    later = await desk.calls.call("begin_hosted_call", lease_key, call("another input"))
    assert (later.id, later.state, later.provider_id) == (first.id, "accepted", "job-1")
    assert later.place == {"get": "x"}
    with pytest.raises(Fenced):
        await desk.calls.call("begin_hosted_call", replace(lease_key, attempt=7), call("a"))


async def test_a_call_that_is_written_again_is_still_new_to_its_maker(desk: Desk) -> None:
    await desk.queue.submit(new())
    lease_key, mine = (await lease(desk.queue)).key, call("a")
    assert (await desk.calls.call("begin_hosted_call", lease_key, mine)).fresh
    assert (await desk.calls.call("begin_hosted_call", lease_key, mine)).fresh
    assert not (await desk.calls.call("begin_hosted_call", lease_key, call("a"))).fresh


async def test_a_job_of_a_provider_belongs_to_one_call(desk: Desk) -> None:
    calls: list[HostedCall] = []
    for number in range(2):
        await desk.queue.submit(new())
        lease_key = (await lease(desk.queue)).key
        calls.append(await desk.calls.call("begin_hosted_call", lease_key, call(str(number))))
    assert await desk.calls.call("accept_hosted_call", calls[0].id, "job-1", {})
    assert not await desk.calls.call("accept_hosted_call", calls[1].id, "job-1", {})
    assert await desk.calls.call("accept_hosted_call", calls[1].id, "job-2", {})
    assert not await desk.calls.call("end_hosted_call", calls[0].id, "repeated")


async def test_an_id_that_is_kept_again_is_kept_as_it_is(desk: Desk) -> None:
    """The answer of the first try was lost, as while an ingress restarts."""
    await desk.queue.submit(new())
    lease_key = (await lease(desk.queue)).key
    hosted_call = await desk.calls.call("begin_hosted_call", lease_key, call("a"))
    for _ in range(2):
        assert await desk.calls.call("accept_hosted_call", hosted_call.id, "job-1", {"get": "x"})
    assert not await desk.calls.call("accept_hosted_call", hosted_call.id, "job-2", {"get": "y"})
    later = await desk.calls.call("begin_hosted_call", lease_key, call("a"))
    assert (later.state, later.provider_id, later.place) == ("accepted", "job-1", {"get": "x"})


async def test_equal_calls_are_sent_one_after_the_other(desk: Desk) -> None:
    await desk.queue.submit(new())
    await desk.queue.submit(new())
    first, second = (await lease(desk.queue)).key, (await lease(desk.queue)).key
    sending = await desk.calls.call("begin_hosted_call", first, call("a"))
    assert await desk.calls.call("begin_hosted_call", second, call("a")) is None
    assert await desk.calls.call("end_hosted_call", sending.id, "refused")
    assert (await desk.calls.call("begin_hosted_call", second, call("a"))).fresh
    assert await desk.calls.call("begin_hosted_call", first, call("a")) is None


async def test_a_call_of_an_ended_request_keeps_no_other_one_waiting(desk: Desk) -> None:
    await desk.queue.submit(new())
    await desk.queue.submit(new())
    first, second = (await lease(desk.queue)).key, (await lease(desk.queue)).key
    await desk.calls.call("begin_hosted_call", first, call("a"))
    assert await desk.calls.call("begin_hosted_call", second, call("a")) is None
    await desk.queue.finish(make_finish(first))
    theirs: list[HostedCall | None] = []
    for _ in range(2):  # of the same provider, with a key of their tenant
        await desk.queue.submit(new())
        lease_key = (await lease(desk.queue)).key
        again = replace(call("a"), owner="bob")
        theirs.append(await desk.calls.call("begin_hosted_call", lease_key, again))
    assert theirs[1] is None
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
    needed, unwanted = [await fal.accept("fal-ai/veo3", {}) for _ in range(2)]
    for _ in (needed, unwanted):
        await desk.queue.submit(new())
    leases = [(await lease(desk.queue)).key for _ in (needed, unwanted)]
    for job, lease_key in zip((needed, unwanted), leases, strict=True):
        hosted_call = await desk.calls.call("begin_hosted_call", lease_key, call(job.id))
        url = f"{fal.origin}/fal-ai/veo3/requests/{job.id}/cancel"
        assert await desk.calls.call("accept_hosted_call", hosted_call.id, job.id, {"cancel": url})
        await desk.queue.hand_back(lease_key, "r1", "It ends.")
    fell_back = "UPDATE attempts SET endpoint = 'acme/hosted' WHERE request_id = %(id)s RETURNING 1"
    assert await database.rows(fell_back, {"id": leases[1].request_id})
    await desk.queue.cancel(TENANT, leases[1].request_id)

    await end_jobs(desk, fal)
    assert (needed.cancelled, unwanted.cancelled) == (False, True)
    await database.rows("UPDATE jobs SET due_at = now()")
    await end_jobs(desk, fal)
    assert len(fal.calls) == 1, "it has answered, so it is not called again"


async def end_jobs(desk: Desk, fal: FalServer) -> None:
    """End the jobs of providers that are due."""
    ending = HostedJobEnding(desk.hosted, hosted_endpoint(fal), desk.secrets)
    await JobWorker(PostgresJobs(desk.database), [ending]).run_due()


def hosted_endpoint(fal: FalServer) -> Callable[[str], Endpoint | None]:
    hosted = {"endpoint": "fal-ai/veo3", "url": fal.origin}
    options = {"hosted": hosted, "secrets": ["FAL_KEY"]}
    hosted_entry = Endpoint("acme/hosted", "fal", Weights(""), "json", options=options)
    return lambda endpoint_id: hosted_entry if endpoint_id == "acme/hosted" else None


class Sent:
    """A request whose attempt has sent a call to a provider."""

    def __init__(self, desk: Desk, fal: FalServer, liveness: FakeLiveness) -> None:
        self.desk, self.liveness, self.fal = desk, liveness, fal

    async def send(self, *, accepted: bool = True, **changes: Any) -> None:
        await self.desk.secrets.put(INSTALLATION, "FAL_KEY", KEY, ME)
        self.fal.holds = True
        self.job = await self.fal.accept("fal-ai/veo3", {})
        self.request = await self.desk.queue.submit(
            new(endpoint="acme/hosted", **{"retries": NONE, "price": CENT} | changes)
        )
        self.lease_key = (await lease(self.desk.queue)).key
        self.made = await self.desk.calls.call(
            "begin_hosted_call", self.lease_key, call(self.job.id)
        )
        if accepted:
            await self.accept()

    async def accept(self) -> None:
        url = f"{self.fal.origin}/fal-ai/veo3/requests/{self.job.id}/cancel"
        accept = ("accept_hosted_call", self.made.id, self.job.id, {"cancel": url})
        assert await self.desk.calls.call(*accept)

    async def until(self, true: Callable[[Request], bool]) -> None:
        async def seen() -> bool:
            return true(await self.desk.queue.current(TENANT, self.request.id))

        await eventually(seen)

    async def die(self) -> None:
        self.liveness.buried.add("actor-r1")
        await self.until(lambda now: now.state is not State.RUNNING)

    async def hand_back(self) -> None:
        await self.desk.queue.hand_back(self.lease_key, "r1", "It ends.")


@pytest.fixture
def sent_call(desk: Desk, fal: FalServer, liveness: FakeLiveness) -> Sent:
    return Sent(desk, fal, liveness)


ELSEWHERE = plan(endpoint="acme/own", errors=("replica_died",), price=CENT)


async def dies_and_falls_back(sent: Sent) -> None:
    await sent.send(fallback=ELSEWHERE)
    await sent.die()
    assert (await sent.desk.queue.current(TENANT, sent.request.id)).fell_back_to == "acme/own"


async def moves_while_it_waits(sent: Sent) -> None:
    await sent.send(fallback=ELSEWHERE)
    await sent.hand_back()
    move = FallbackMove(sent.request.id, FallbackReason.MAX_WAIT)
    assert await sent.desk.queue.fallbacks.move([move])


async def dies_for_good(sent: Sent) -> None:
    await sent.send()
    await sent.die()
    assert (await sent.desk.queue.current(TENANT, sent.request.id)).state is State.FAILED


async def is_cancelled_and_then_handed_back(sent: Sent) -> None:
    await sent.send()
    await sent.desk.queue.cancel(TENANT, sent.request.id)
    await sent.hand_back()


async def is_failed_by_an_operator(sent: Sent) -> None:
    await sent.send()
    assert await sent.desk.queue.operations.fail(sent.request.id, ME, "no") is State.FAILED


async def is_failed_by_an_operator_while_it_waits(sent: Sent) -> None:
    await sent.send()
    await sent.hand_back()
    assert await sent.desk.queue.operations.fail(sent.request.id, ME, "no") is State.FAILED


@pytest.mark.variants(1)
@pytest.mark.parametrize(
    "end",
    [
        dies_and_falls_back,
        moves_while_it_waits,
        dies_for_good,
        is_cancelled_and_then_handed_back,
        is_failed_by_an_operator,
        is_failed_by_an_operator_while_it_waits,
    ],
)
async def test_a_job_that_no_replica_goes_on_with_is_ended(
    sent_call: Sent, end: Callable[[Sent], Awaitable[None]]
) -> None:
    await end(sent_call)
    await end_jobs(sent_call.desk, sent_call.fal)
    assert sent_call.job.cancelled


async def dies_and_is_tried_again(sent: Sent) -> None:
    await sent.send(retries=None)
    await sent.die()


async def is_requeued_by_an_operator(sent: Sent) -> None:
    await sent.send()
    assert await sent.desk.queue.operations.requeue(sent.request.id, ME) is State.QUEUED


async def succeeds(sent: Sent) -> None:
    await sent.send()
    await sent.desk.queue.finish(make_finish(sent.lease_key))


async def ends_by_its_replica(sent: Sent) -> None:
    await sent.send()
    await sent.desk.queue.finish(make_finish(sent.lease_key, failure("hosted_failed")))


@pytest.mark.long
@pytest.mark.parametrize(
    "end", [dies_and_is_tried_again, is_requeued_by_an_operator, succeeds, ends_by_its_replica]
)
async def test_a_job_that_is_wanted_or_has_ended_is_left_alone(
    sent_call: Sent, end: Callable[[Sent], Awaitable[None]]
) -> None:
    await end(sent_call)
    await end_jobs(sent_call.desk, sent_call.fal)
    assert not sent_call.job.cancelled


async def test_a_job_that_is_accepted_after_its_request_has_left_is_ended(sent_call: Sent) -> None:
    """The replica was taken for dead while the provider was slow to answer."""
    await sent_call.send(accepted=False, fallback=ELSEWHERE)
    await sent_call.die()
    await end_jobs(sent_call.desk, sent_call.fal)
    assert not sent_call.job.cancelled
    await sent_call.accept()
    await end_jobs(sent_call.desk, sent_call.fal)
    assert sent_call.job.cancelled


async def test_a_call_that_was_surely_not_accepted_is_waited_for_no_longer(
    sent_call: Sent, database: Database
) -> None:
    await sent_call.send(accepted=False, fallback=ELSEWHERE)
    await sent_call.die()
    assert await database.rows("SELECT 1 FROM jobs WHERE kind = 'hosted'")
    assert await sent_call.desk.calls.call("end_hosted_call", sent_call.made.id, "refused")
    assert not await database.rows("SELECT 1 FROM jobs WHERE kind = 'hosted'")


async def test_a_deleted_request_leaves_no_call(desk: Desk, database: Database) -> None:
    request = await desk.queue.submit(new())
    lease_key = (await lease(desk.queue)).key
    await desk.calls.call("begin_hosted_call", lease_key, call("a"))
    await desk.queue.finish(make_finish(lease_key))
    await desk.queue.delete(TENANT, request.id)
    assert await database.rows("SELECT 1 FROM hosted_calls") == []


async def test_a_call_of_a_newer_replica_is_refused_by_name(desk: Desk) -> None:
    with pytest.raises(Unsupported, match="has no call teleport"):
        await desk.calls.call("teleport")
