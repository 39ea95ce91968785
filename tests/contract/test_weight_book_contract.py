"""Contract of the weights that tenants register: over the fake and over PostgreSQL."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from serve_app.domain.audit.acts import Actor
from serve_app.domain.errors import RequestActive
from serve_app.domain.ports import Queue
from serve_app.jobs.jobs import Job, JobKind, Jobs
from serve_app.jobs.postgres import PostgresJobs
from serve_app.registry.postgres import PostgresWeightBook
from serve_app.registry.records import (
    WEIGHTS,
    CheckedWeights,
    NewWeights,
    StoredWeightFile,
    TenantWeights,
    WeightBook,
    WeightQuota,
    WeightState,
)
from serve_app.telemetry.clock import SystemClock
from tests.fakes.queue import FakeQueue
from tests.fakes.weight_book import FakeWeightBook
from tests.queue.connections import LastingDatabase
from tests.queue.requests import new

ME = Actor("key-1", "192.0.2.1")
STYLE = NewWeights("house", "style", "fal-ai/flux/dev", {"upload": "u/abc/style.safetensors"})
QUOTA = WeightQuota(max_bytes=1000, max_endpoints=2)


@pytest.fixture
async def book(at: str | None, queue: Queue) -> AsyncIterator[WeightBook]:
    if isinstance(queue, FakeQueue):
        yield FakeWeightBook(SystemClock(), queue.operations.note, queue.count_unfinished)
        return
    assert at is not None
    database = LastingDatabase(at, connections=2)
    await database.start()
    yield PostgresWeightBook(database)
    await database.aclose()


def jobs_of(book: WeightBook) -> Jobs:
    return book.jobs if isinstance(book, FakeWeightBook) else PostgresJobs(book._database)  # type: ignore[attr-defined]


async def take_job(book: WeightBook, kind: JobKind = WEIGHTS) -> Job:
    (job,) = await jobs_of(book).take(kind, 1)
    return job


async def made_ready(
    book: WeightBook, new: NewWeights = STYLE, size: int = 100, digest: str = "d" * 64
) -> TenantWeights:
    assert await book.add(new, QUOTA, ME) == ""
    job = await take_job(book)
    assert await book.reserve(job, size, QUOTA.max_bytes)
    await book.adopt(digest, f"w/{digest[:4]}.safetensors", size)
    files = [StoredWeightFile("lora.safetensors", digest, size)]
    assert await book.accept(job, CheckedWeights("lora", files, "base@1"))
    await jobs_of(book).finish([job])
    weights = await book.find(new.tenant, new.name)
    assert weights is not None
    return weights


async def test_weights_wait_are_fetched_checked_and_ready(book: WeightBook) -> None:
    assert await book.add(STYLE, QUOTA, ME) == ""
    waiting = await book.find("house", "style")
    assert waiting is not None
    assert (waiting.state, waiting.kind, waiting.files) == (WeightState.WAITING, "", ())
    job = await take_job(book)
    begun = await book.report(job, WeightState.FETCHING, 0)
    assert begun is not None
    assert (begun.state, begun.source) == (WeightState.FETCHING, STYLE.source)
    assert await book.report(job, WeightState.CHECKING, 70)
    now = await book.find("house", "style")
    assert now is not None
    assert (now.state, now.done) == (WeightState.CHECKING, 70)
    assert await book.reserve(job, 100, QUOTA.max_bytes)
    assert await book.adopt("d" * 64, "w/a.safetensors", 100) == "w/a.safetensors"
    assert await book.key_of("d" * 64) is None  # it may still be on its way
    files = [StoredWeightFile("lora.safetensors", "d" * 64, 100)]
    checked = CheckedWeights("lora", files, "base@1", {"metadata": {}})
    assert await book.accept(job, checked)
    ready = await book.find("house", "style")
    assert ready is not None
    assert (ready.state, ready.kind, ready.files) == (WeightState.READY, "lora", tuple(files))
    assert ready.base_weights == "base@1"
    assert await book.key_of("d" * 64) == "w/a.safetensors"
    assert await book.report(job, WeightState.FETCHING, 0) is None


async def test_a_name_is_taken_until_its_weights_are_refused_or_removed(book: WeightBook) -> None:
    await book.add(STYLE, QUOTA, ME)
    assert await book.add(STYLE, QUOTA, ME) == "exists"
    assert await book.add(replace(STYLE, tenant="other"), QUOTA, ME) == ""
    job = await take_job(book)
    await book.refuse(job, "It is a pickle.")
    refused = await book.find(job.tenant, "style")
    assert refused is not None
    assert (refused.state, refused.problem) == (WeightState.REFUSED, "It is a pickle.")
    assert await book.add(replace(STYLE, tenant=job.tenant), QUOTA, ME) == ""
    again = await book.find(job.tenant, "style")
    assert again is not None
    assert (again.state, again.problem) == (WeightState.WAITING, "")


async def test_only_the_process_that_took_a_job_can_end_it(book: WeightBook) -> None:
    await book.add(STYLE, QUOTA, ME)
    lost = await take_job(book, replace(WEIGHTS, lease_s=-1.0))
    job = await take_job(book)
    assert await book.report(job, WeightState.FETCHING, 0)
    assert not await book.report(lost, WeightState.CHECKING, 1)
    assert not await book.reserve(lost, 1, QUOTA.max_bytes)
    assert not await book.accept(lost, CheckedWeights("lora", [], ""))
    await book.refuse(lost, "not mine")
    now = await book.find("house", "style")
    assert now is not None
    assert now.state is WeightState.FETCHING


async def test_weights_of_the_same_name_are_each_tenant_s_own(book: WeightBook) -> None:
    theirs = replace(STYLE, tenant="other")
    assert await book.add(replace(theirs, name="large"), QUOTA, ME) == ""
    assert await book.reserve(await take_job(book), 900, QUOTA.max_bytes)
    assert await book.add(theirs, QUOTA, ME) == ""
    waiting = await book.find("other", "style")
    await take_job(book)
    assert await book.add(STYLE, QUOTA, ME) == ""
    job = await take_job(book)
    assert job.tenant == "house"
    begun = await book.report(job, WeightState.FETCHING, 5)
    assert begun is not None
    assert begun.tenant == "house"
    assert await book.reserve(job, QUOTA.max_bytes, QUOTA.max_bytes)
    await book.refuse(job, "no")
    assert await book.find("other", "style") == waiting
    await jobs_of(book).give_up([job], "no")
    assert await book.add(STYLE, QUOTA, ME) == ""
    job = await take_job(book)
    files = [StoredWeightFile("lora.safetensors", "d" * 64, 100)]
    assert await book.accept(job, CheckedWeights("lora", files, "base@1"))
    assert await book.find("other", "style") == waiting


async def test_ready_weights_of_the_same_name_are_too(book: WeightBook, queue: Queue) -> None:
    theirs = replace(STYLE, tenant="other", endpoint="other/style")
    await made_ready(book, theirs)
    await made_ready(book)
    assert await book.publish("house", "style", ME, public=True)
    assert [weights.tenant for weights in await book.page("third", 10)] == ["house"]
    await queue.submit(new(endpoint="other/style", tenant="other"))
    assert await book.remove("house", "style", ME)
    assert await book.find("other", "style") is not None


async def test_weights_that_replace_refused_ones_are_fetched_anew(book: WeightBook) -> None:
    await book.add(STYLE, QUOTA, ME)
    job = await take_job(book)
    await book.refuse(job, "It is a pickle.")
    await jobs_of(book).give_up([job], "It is a pickle.")
    await book.add(STYLE, QUOTA, ME)
    again = await take_job(book)
    assert (again.key, again.tenant, again.attempts) == ("house/style", "house", 1)
    assert not await book.report(job, WeightState.FETCHING, 0)
    assert await book.report(again, WeightState.FETCHING, 0)


async def test_removed_weights_end_their_job(book: WeightBook) -> None:
    await book.add(STYLE, QUOTA, ME)
    job = await take_job(book)
    assert await book.remove("house", "style", ME)
    assert not await book.remove("house", "style", ME)
    assert not await book.report(job, WeightState.CHECKING, 1)
    assert not await book.accept(job, CheckedWeights("lora", [], ""))
    assert not await jobs_of(book).due_kinds(["weights"])
    assert await book.find("house", "style") is None


async def test_weights_whose_endpoint_has_unfinished_requests_are_removed_only_by_force(
    book: WeightBook, queue: Queue
) -> None:
    served = replace(STYLE, endpoint="house/style")
    await made_ready(book, served)
    other = replace(STYLE, name="other", endpoint="house/other")
    await made_ready(book, other)
    await queue.submit(new(endpoint="house/style", tenant="house"))
    with pytest.raises(RequestActive, match="1 queued or running"):
        await book.remove("house", "style", ME)
    assert await book.find("house", "style") is not None
    assert await book.remove("house", "other", ME)
    assert await book.remove("house", "style", ME, force=True)
    assert await book.find("house", "style") is None


async def test_a_file_is_stored_once_and_counts_fully_for_both_tenants(book: WeightBook) -> None:
    await made_ready(book)
    key = await book.key_of("d" * 64)
    assert await book.adopt("d" * 64, "w/other.safetensors", 100) == key
    await made_ready(book, replace(STYLE, tenant="other"))
    assert (await book.used_bytes("house"), await book.used_bytes("other")) == (100, 100)
    await book.remove("house", "style", ME)
    assert await book.key_of("d" * 64) == key  # the other one's
    assert await book.used_bytes("house") == 0


async def test_the_quota_counts_what_is_reserved(book: WeightBook) -> None:
    await made_ready(book, size=700)
    second = replace(STYLE, name="second")
    assert await book.add(second, QUOTA, ME) == ""
    job = await take_job(book)
    assert not await book.reserve(job, 301, QUOTA.max_bytes)
    assert await book.reserve(job, 300, QUOTA.max_bytes)
    assert await book.reserve(job, 300, QUOTA.max_bytes)  # a repeat counts once
    assert await book.add(replace(STYLE, name="third"), QUOTA, ME) == "bytes"
    await book.refuse(job, "no")
    assert await book.add(replace(STYLE, name="third"), QUOTA, ME) == ""


async def test_weights_that_are_being_checked_and_endpoints_are_limited(book: WeightBook) -> None:
    few = WeightQuota(1000, 1, max_unfinished=2)
    first = replace(STYLE, endpoint="house/a")
    assert await book.add(first, few, ME) == ""
    assert await book.add(replace(first, name="b", endpoint="house/b"), few, ME) == "endpoints"
    same = replace(first, name="b")
    assert await book.add(same, QUOTA, ME) == "endpoint"
    assert await book.add(replace(first, tenant="other"), QUOTA, ME) == "endpoint"
    assert await book.add(replace(STYLE, name="b"), few, ME) == ""
    assert await book.add(replace(STYLE, name="c"), few, ME) == "unfinished"


async def test_published_weights_are_listed_for_all_after_their_own(book: WeightBook) -> None:
    assert not await book.publish("house", "style", ME, public=True)
    await made_ready(book)
    assert [weights.name for weights in await book.page("other", 10)] == []
    assert await book.publish("house", "style", ME, public=True)
    await made_ready(book, replace(STYLE, tenant="other", name="own"), digest="e" * 64)
    assert [weights.name for weights in await book.page("other", 10)] == ["own", "style"]
    assert await book.publish("house", "style", ME, public=False)
    assert [weights.name for weights in await book.page("other", 10)] == ["own"]


async def test_endpoints_are_of_ready_weights_and_change_the_version(book: WeightBook) -> None:
    before = await book.version()
    new = replace(STYLE, endpoint="house/portraits", scale=0.5)
    await made_ready(book, new)
    (weights,) = await book.endpoints()
    assert (weights.endpoint, weights.scale, weights.base) == ("house/portraits", 0.5, STYLE.base)
    ready = await book.version()
    assert ready != before
    await book.remove("house", "style", ME)
    assert list(await book.endpoints()) == []
    assert await book.version() != ready


async def test_changes_are_in_the_audit_log(book: WeightBook, queue: Queue) -> None:
    await made_ready(book)
    await book.publish("house", "style", ME, public=True)
    await book.remove("house", "style", ME)
    entries = [entry for entry in await queue.operations.audit() if entry.action[:7] == "weights"]
    assert sorted(entry.action for entry in entries) == [
        "weights.add",
        "weights.publish",
        "weights.remove",
    ]
    assert {(entry.actor, entry.subject) for entry in entries} == {("key-1", "house/style")}


async def test_a_tenant_sees_the_changes_of_its_weights_in_the_audit_log(
    book: WeightBook, queue: Queue
) -> None:
    await made_ready(book)
    await book.publish("house", "style", ME, public=True)
    await book.remove("house", "style", ME)
    await queue.operations.seal_audit()
    own = await queue.operations.audit(None, 10, "house")
    assert [entry.action for entry in reversed(own)] == [
        "weights.add",
        "weights.publish",
        "weights.remove",
    ]
    assert await queue.operations.audit(None, 10, "other") == []


async def test_the_audit_log_has_no_token_of_a_url(book: WeightBook, queue: Queue) -> None:
    url = "https://example.com/style.safetensors?token=secret"
    await book.add(replace(STYLE, source={"url": url}), QUOTA, ME)
    acts = await queue.operations.audit()
    assert "example.com/style.safetensors" in repr(acts)
    assert "secret" not in repr(acts)
    kept = await book.find("house", "style")
    assert kept is not None
    assert kept.source == {"url": url}
