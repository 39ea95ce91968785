"""Requests of hosted providers on a replica: sent at most once, whatever is lost."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from deployments.executors.hosted.files import MAX_INLINE_BYTES
from serve_app.domain.executors.secrets import Secret
from serve_app.domain.lease import Signal, SignalKind
from serve_app.postgres.database import Database
from tests.deployments.executors.hosted.desk import HostedDesk
from tests.ingress.house import OTHERS
from tests.queue.database import Ingress
from tests.wire.served import Address, serve

FLUX = "fal-ai/flux/schnell"
MODELS: dict[str, dict[str, Any]] = {"openai": {"endpoint": FLUX}}
VIDEOS: dict[str, Any] = {"endpoint": "test/videos", "makes": "videos"}
FINDING = ("fal", "darkroom", "replicate")
IMAGE = {
    "type": "object",
    "properties": {"image_url": {"type": "string", "x-darkroom-file": "image"}},
}


@pytest.fixture(scope="module")
def provider() -> Iterator[Address]:
    with serve() as address:
        yield address


@pytest.fixture
async def desk(
    tmp_path: Path, database: Database, ingress: Ingress, provider: Address
) -> AsyncIterator[HostedDesk]:
    hosted_desk = HostedDesk(tmp_path, database, await ingress(), provider)
    await hosted_desk.start()
    yield hosted_desk
    await hosted_desk.aclose()


@pytest.mark.parametrize("family", FINDING)
async def test_a_result_is_followed_and_its_files_are_stored_as_ours(
    desk: HostedDesk, family: str
) -> None:
    prompt = f"a lighthouse by {family}"
    outcome = await desk.outcome(desk.endpoint(family), prompt=prompt, artifacts=2, sleep_s=0.1)
    assert outcome.failure is None, outcome.failure
    assert len(outcome.artifacts) == 2
    assert desk.provider.url not in repr(outcome.output)
    stored = {artifact.key for artifact in outcome.artifacts}
    assert stored <= desk.rig.storage.objects.keys()
    (job,) = await desk.jobs(prompt)
    assert await desk.calls() == [("accepted", job["request_id"])]


async def test_images_in_an_answer_are_stored_as_ours(desk: HostedDesk) -> None:
    outcome = await desk.outcome(desk.endpoint("openai", endpoint=FLUX), prompt="a JPEG")
    assert outcome.failure is None, outcome.failure
    (image,) = (outcome.output or {})["images"]
    assert image["artifact"] in desk.rig.storage.objects
    assert [state for state, _ in await desk.calls()] == ["accepted"]


@pytest.mark.long
async def test_a_video_is_stored_as_ours_also_if_its_answer_was_lost(
    tmp_path: Path, database: Database, ingress: Ingress
) -> None:
    with serve(catalog=OTHERS) as provider:
        desk = HostedDesk(tmp_path, database, await ingress(), provider)
        await desk.start()
        try:
            for faults in ([], ["lost"]):
                desk.proxy.faults = faults
                prompt = f"a film, {len(faults)} lost"
                outcome = await desk.outcome(desk.endpoint("openai", **VIDEOS), prompt=prompt)
                assert outcome.failure is None, outcome.failure
                video = (outcome.output or {})["video"]
                assert desk.rig.storage.objects[video["artifact"]] == b"image"
                assert len(await desk.jobs(prompt)) == 1
        finally:
            await desk.aclose()


@pytest.mark.long
async def test_an_input_file_is_sent_inside_of_the_request(desk: HostedDesk) -> None:
    desk.rig.storage.objects["u/cat.png"] = b"a cat"
    url = "http://storage/files/u/cat.png"
    endpoint = desk.endpoint("fal", IMAGE)
    outcome = await desk.outcome(endpoint, prompt="with a cat", image_url=url, echo="x")
    assert outcome.failure is None, outcome.failure
    (sent,) = await desk.inputs("with a cat")
    assert sent["image_url"] == "data:image/png;base64,YSBjYXQ="
    large = "data:image/png;base64," + base64.b64encode(b"x" * (MAX_INLINE_BYTES + 1)).decode()
    refused = (await desk.outcome(endpoint, prompt="too large", image_url=large)).failure
    assert refused is not None
    assert (refused.code, refused.field) == ("invalid_input", "image_url")


@pytest.mark.parametrize("family", FINDING)
async def test_a_request_whose_answer_was_lost_is_found_and_not_paid_twice(
    desk: HostedDesk, family: str
) -> None:
    prompt = f"lost by {family}"
    desk.proxy.faults = ["lost"]
    outcome = await desk.outcome(desk.endpoint(family), prompt=prompt)
    assert outcome.failure is None, outcome.failure
    (job,) = await desk.jobs(prompt)
    assert await desk.calls() == [("accepted", job["request_id"])]


async def test_a_lost_answer_with_images_is_not_asked_for_again(desk: HostedDesk) -> None:
    desk.proxy.faults = ["lost"]
    outcome = await desk.outcome(desk.endpoint("openai", endpoint=FLUX), prompt="a JPEG")
    assert outcome.failure is not None
    assert (outcome.failure.code, outcome.failure.retryable) == ("hosted_unconfirmed", False)
    assert "might be paid twice" in outcome.failure.message
    assert len(desk.proxy.submits) == 1
    assert [state for state, _ in await desk.calls()] == ["unconfirmed"]


@pytest.mark.long
@pytest.mark.parametrize("fault", ["unavailable", "reset"])
async def test_a_call_that_is_not_found_ends_as_unconfirmed(desk: HostedDesk, fault: str) -> None:
    desk.proxy.faults = [fault]
    endpoint = desk.endpoint("fal", grace_s=0.3)
    outcome = await desk.outcome(endpoint, prompt=f"gone by {fault}")
    assert outcome.failure is not None
    assert outcome.failure.code == "hosted_unconfirmed"
    assert desk.proxy.submits == []


async def test_an_operator_may_let_an_unconfirmed_call_be_repeated(desk: HostedDesk) -> None:
    desk.proxy.faults = ["reset"]
    endpoint = desk.endpoint("fal", grace_s=0.1, on_unknown="repeat")
    outcome = await desk.outcome(endpoint, prompt="repeated")
    assert outcome.failure is None, outcome.failure
    assert [state for state, _ in await desk.calls()] == ["repeated", "accepted"]


@pytest.mark.long
@pytest.mark.parametrize("family", ["fal", "replicate", "openai"])
async def test_a_call_that_was_surely_not_accepted_is_sent_again(
    desk: HostedDesk, family: str
) -> None:
    desk.proxy.faults = ["busy", "busy"]
    outcome = await desk.outcome(desk.endpoint(family, **MODELS.get(family, {})), prompt="a JPEG")
    assert outcome.failure is None, outcome.failure
    assert len(desk.proxy.submits) == 1
    assert [state for state, _ in await desk.calls()] == ["refused", "refused", "accepted"]


async def test_a_provider_that_cannot_be_reached_is_named(desk: HostedDesk) -> None:
    endpoint = desk.endpoint("fal", url="http://127.0.0.1:9", busy_s=0.1)
    outcome = await desk.outcome(endpoint, prompt="nobody")
    assert outcome.failure is not None
    assert outcome.failure.code == "hosted_failed"
    assert "fal http://127.0.0.1:9 cannot be reached" in outcome.failure.message


@pytest.mark.long
async def test_an_attempt_after_a_crash_before_the_commit_finds_the_job(desk: HostedDesk) -> None:
    """The replica ends between the provider's acceptance and our commit of its id."""
    endpoint, accepted = desk.endpoint("fal"), asyncio.Event()

    async def crash(path: str) -> None:
        if path.startswith("POST"):
            accepted.set()
            await asyncio.Event().wait()

    desk.proxy.before = crash
    first = await desk.submit_and_lease(endpoint, prompt="a crash before")
    desk.rig.port.offer(first)
    await accepted.wait()
    desk.proxy.before = None
    await desk.replica()
    second = await desk.again(first)
    desk.rig.port.offer(second)
    outcome = await desk.rig.outcome(second.key)
    assert outcome.failure is None, outcome.failure
    (job,) = await desk.jobs("a crash before")
    assert await desk.calls() == [("accepted", job["request_id"])]
    assert len(desk.proxy.submits) == 1


@pytest.mark.long
async def test_an_attempt_after_the_commit_goes_on_with_the_job(desk: HostedDesk) -> None:
    endpoint = desk.endpoint("replicate")
    first = await desk.submit_and_lease(endpoint, prompt="a crash after", sleep_s=1.0)
    desk.rig.port.offer(first)
    await desk.until(lambda calls: "accepted" in dict(calls), desk.calls)
    await desk.replica()
    second = await desk.again(first)
    desk.rig.port.offer(second)
    outcome = await desk.rig.outcome(second.key)
    assert outcome.failure is None, outcome.failure
    assert len(await desk.jobs("a crash after")) == len(desk.proxy.submits) == 1


@pytest.mark.long
@pytest.mark.parametrize("family", FINDING)
async def test_a_cancelled_request_is_cancelled_at_the_provider(
    desk: HostedDesk, family: str
) -> None:
    prompt = f"cancelled at {family}"
    key = await desk.offer(desk.endpoint(family), prompt=prompt, sleep_s=600)
    await desk.job_is("running", prompt)
    desk.rig.port.signal(Signal(SignalKind.CANCEL, key))
    outcome = await desk.rig.outcome(key)
    assert outcome.failure is not None
    assert outcome.failure.code == "cancelled"
    await desk.job_is("cancelled", prompt)


async def test_a_request_that_is_handed_back_goes_on_at_the_provider(desk: HostedDesk) -> None:
    key = await desk.offer(desk.endpoint("fal"), prompt="handed back", sleep_s=600)
    await desk.job_is("running", "handed back")
    await desk.rig.replica.aclose()
    assert key in [lease_key for lease_key, *_ in desk.rig.port.hand_backs]
    (job,) = await desk.jobs("handed back")
    assert job["state"] == "running"
    assert not any("cancel" in path for path in desk.proxy.paths)


async def test_equal_requests_are_jobs_of_their_own_also_if_answers_are_lost(
    desk: HostedDesk,
) -> None:
    desk.proxy.faults = ["lost", "lost"]
    endpoint = desk.endpoint("replicate")
    keys = [await desk.offer(endpoint, prompt="equal ones") for _ in range(3)]
    for key in keys:
        outcome = await desk.rig.outcome(key)
        assert outcome.failure is None, outcome.failure
    jobs = {job["request_id"] for job in await desk.jobs("equal ones")}
    assert len(jobs) == 3
    assert sorted(await desk.calls()) == sorted(("accepted", request_id) for request_id in jobs)


@pytest.mark.long
@pytest.mark.parametrize(
    ("orders", "code", "words"),
    [
        ({"fail": "pipeline_failed"}, "hosted_failed", "answered 500"),
        ({"fail": "content_policy_violation"}, "content_policy_violation", ""),
        ({"fail": "invalid_input", "field": "steps"}, "invalid_input", "steps"),
    ],
)
async def test_failures_of_the_provider_are_ours(
    desk: HostedDesk, orders: dict[str, Any], code: str, words: str
) -> None:
    outcome = await desk.outcome(desk.endpoint("fal"), prompt="to fail", **orders)
    assert outcome.failure is not None
    assert (outcome.failure.code, outcome.failure.retryable) == (code, False)
    assert words in outcome.failure.message


@pytest.mark.long
@pytest.mark.parametrize("family", ["fal", "replicate", "openai"])
async def test_a_key_that_the_provider_refuses_is_named(desk: HostedDesk, family: str) -> None:
    desk.rig.source.kept = [Secret("PROVIDER_KEY", "", "wrong:key")]
    outcome = await desk.outcome(desk.endpoint(family, **MODELS.get(family, {})), prompt="a JPEG")
    assert outcome.failure is not None
    assert outcome.failure.code == "hosted_failed"
    assert "refused the key in the secret PROVIDER_KEY (401)" in outcome.failure.message
    assert "wrong:key" not in repr(outcome)
    assert [state for state, _ in await desk.calls()] == ["refused"]


async def test_a_tenants_own_key_is_used_before_the_installations(desk: HostedDesk) -> None:
    ours, endpoint = desk.rig.source.kept, desk.endpoint("fal")
    desk.rig.source.kept = [Secret("PROVIDER_KEY", "ann", desk.provider.other_key), *ours]
    assert (await desk.outcome(endpoint, prompt="by my own key")).failure is None
    assert await desk.jobs("by my own key") == [], "it is a request of the other account"
    desk.rig.source.kept = ours
    only_own = desk.endpoint("fal", own_key=True)
    failure = (await desk.outcome(only_own, prompt="by no key")).failure
    assert failure is not None
    assert failure.code == "secret_missing"
    assert "`darkroom secrets set PROVIDER_KEY`" in failure.message
