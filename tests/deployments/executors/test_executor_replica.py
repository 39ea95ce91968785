"""Requests of apps on a replica: real worker processes, an in-memory ingress and storage."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from serve_app.domain.artifact import UploadTicket
from serve_app.domain.executors.secrets import Secret
from serve_app.domain.lease import LeaseKey, Report, ReportReply, Signal, SignalKind
from tests.deployments.client_bucket import (
    TYPED,
    Bucket,
    bucket,
    forge_signature,
    moto_server,
    policy_uploader,
)
from tests.deployments.executors.rig import ExecutorRig, FakeAppSource, endpoint

__all__ = ["bucket", "moto_server"]

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[ExecutorRig]:
    rig = ExecutorRig(tmp_path)
    await rig.replica.start()
    yield rig
    await rig.replica.aclose()


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def process_of(rig: ExecutorRig, name: str) -> dict[str, Any]:
    outcome = await rig.outcome(rig.offer(name, "/process"))
    return dict(outcome.output or {})


async def test_a_replica_whose_term_has_ended_ends_its_apps_and_its_process(
    rig: ExecutorRig,
) -> None:
    process = int((await process_of(rig, "first"))["pid"])
    key = rig.offer("one", text="hello", steps=1, until="/never")
    await rig.running(key)
    rig.port.end_term("its node failed")
    await rig.process_ended.wait()
    assert not any(finish.lease_key == key for finish in rig.port.finishes)
    assert not rig.port.handed_back  # another replica has it already
    assert not alive(process)


async def test_a_request_is_answered_with_what_its_method_returns(rig: ExecutorRig) -> None:
    outcome = await rig.outcome(rig.offer("one", text="hello"))
    assert outcome.output == {"output": "hello"}
    assert outcome.failure is None
    assert outcome.usage.run_s > 0


async def test_endpoints_of_an_app_share_one_process_which_stays(rig: ExecutorRig) -> None:
    await rig.outcome(rig.offer("one", text="hello"))
    first, second = await process_of(rig, "two"), await process_of(rig, "three")
    assert first == second
    assert first["calls"] == 1
    assert rig.source.fetched == rig.source.fetched[:1]
    assert "apps/studio/process" in rig.port.asks[-1].hot


async def test_printed_lines_arrive_with_their_levels(rig: ExecutorRig) -> None:
    key = rig.offer("one", text="hello")
    assert await rig.lines(key) == PRINTED


PRINTED = [("INFO", "echoing hello"), ("ERROR", "to the error stream")]


async def test_lines_of_a_report_that_is_lost_come_later(
    rig: ExecutorRig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    arrives, lost = rig.port.report, asyncio.Event()

    async def report(replica_report: Report) -> ReportReply:
        if replica_report.lines and not lost.is_set():
            lost.set()
            raise ConnectionError
        return await arrives(replica_report)

    monkeypatch.setattr(rig.port, "report", report)
    key = rig.offer("one", text="hello", until=str(tmp_path / "lost"))
    await lost.wait()
    (tmp_path / "lost").touch()
    assert await rig.lines(key) == PRINTED


async def test_the_end_comes_after_the_report_that_has_lines(
    rig: ExecutorRig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    arrives, sent, on = rig.port.report, asyncio.Event(), asyncio.Event()

    async def report(replica_report: Report) -> ReportReply:
        if replica_report.lines:
            sent.set()
            await on.wait()
        return await arrives(replica_report)

    monkeypatch.setattr(rig.port, "report", report)
    key = rig.offer("one", text="hello", until=str(tmp_path / "sent"))
    await sent.wait()
    (tmp_path / "sent").touch()
    await asyncio.sleep(1)  # it ends meanwhile
    assert not rig.port.finishes
    on.set()
    assert await rig.lines(key) == PRINTED


async def test_the_last_value_of_a_generator_is_the_result(rig: ExecutorRig) -> None:
    assert (await rig.outcome(rig.offer("one", "/count", to=3))).output == {"number": 2}
    failure = (await rig.outcome(rig.offer("two", "/count", to=0))).failure
    assert failure is not None
    assert "yielded nothing" in failure.message


async def test_files_come_by_path_and_go_to_storage(rig: ExecutorRig) -> None:
    rig.storage.objects["u/cat.png"] = PNG
    key = rig.offer("one", "/copy", image_url="http://anywhere/files/u/cat.png")
    outcome = await rig.outcome(key)
    assert outcome.output == {
        "image": {
            "artifact": "r/one/1/0",
            "content_type": "image/png",
            "width": 1,
            "height": 1,
        }
    }
    (artifact,) = outcome.artifacts
    assert (artifact.size, artifact.media_type, artifact.width) == (len(PNG), "image/png", 1)
    assert rig.storage.objects["r/one/1/0"] == PNG
    assert list((rig.scratch / "requests").iterdir()) == []


async def test_json_of_a_client_cannot_name_a_file_of_the_machine(
    rig: ExecutorRig, tmp_path: Path
) -> None:
    (tmp_path / "token").write_text("secret")
    text = json.dumps({"image": {"$file": str(tmp_path / "token"), "media_type": "image/png"}})
    outcome = await rig.outcome(rig.offer("one", "/shown", text=text))
    assert outcome.failure is not None
    assert "Input should be a file" in outcome.failure.message
    assert rig.storage.objects == {}


async def test_a_file_of_an_input_may_go_from_one_model_to_another(rig: ExecutorRig) -> None:
    outcome = await rig.outcome(rig.offer("one", "/again", image_url="data:image/png;base64,YQ=="))
    assert outcome.failure is None, outcome.failure
    assert list(rig.storage.objects.values()) == [b"a"]


async def test_a_file_that_cannot_be_fetched_names_its_field(rig: ExecutorRig) -> None:
    key = rig.offer("one", "/copy", image_url="http://anywhere/files/u/none.png")
    failure = (await rig.outcome(key)).failure
    assert failure is not None
    assert (failure.code, failure.field) == ("invalid_input", "image_url")


@pytest.mark.variants(1)
@pytest.mark.parametrize(
    ("path", "arguments", "code", "retryable", "words"),
    [
        ("/refuse", {"text": "xyz"}, "invalid_input", False, "xyz is not a word"),
        ("/echo", {}, "pipeline_failed", False, "There is no endpoint /echo"),
        ("/", {"text": 3}, "invalid_input", False, "valid string"),
        ("/busy", {}, "pipeline_failed", True, "The other service is busy."),
        (
            "/broken",
            {},
            "pipeline_failed",
            False,
            "ZeroDivisionError: division by zero (",
        ),
        ("/die", {}, "replica_died", True, "ended with status 3"),
    ],
)
async def test_each_failure_says_what_happened(
    rig: ExecutorRig, path: str, arguments: dict[str, Any], code: str, retryable: bool, words: str
) -> None:
    failure = (await rig.outcome(rig.offer("one", path, **arguments))).failure
    assert failure is not None
    assert (failure.code, failure.retryable) == (code, retryable)
    assert words in failure.message


async def test_after_a_death_the_next_request_starts_another_process(rig: ExecutorRig) -> None:
    before = await process_of(rig, "one")
    waits = rig.offer("two", "/polite")
    await rig.running(waits)
    os.kill(before["pid"], signal.SIGKILL)
    failure = (await rig.outcome(waits)).failure
    assert failure is not None
    assert (failure.code, failure.retryable) == ("replica_died", True)
    assert "SIGKILL" in failure.message
    assert (await process_of(rig, "three"))["pid"] != before["pid"]


@pytest.mark.parametrize("detached", [False, True])
async def test_a_death_is_seen_although_a_child_of_the_process_goes_on(
    rig: ExecutorRig, detached: bool
) -> None:
    async with asyncio.timeout(20):
        failure = (await rig.outcome(rig.offer("one", "/orphan", detached=detached))).failure
        assert failure is not None
        assert (failure.code, failure.retryable) == ("replica_died", True)
        assert "SIGKILL" in failure.message
        assert (await process_of(rig, "two"))["calls"] == 0


async def test_a_child_that_keeps_the_output_open_does_not_keep_its_process(
    rig: ExecutorRig,
) -> None:
    pids = dict((await rig.outcome(rig.offer("one", "/daemon"))).output or {})
    try:
        async with asyncio.timeout(20):
            waits = rig.offer("two", "/polite")
            await rig.running(waits)
            os.kill(pids["own"], signal.SIGKILL)
            failure = (await rig.outcome(waits)).failure
            assert failure is not None
            assert failure.code == "replica_died"
            assert (await process_of(rig, "three"))["pid"] != pids["own"]
            await rig.replica.aclose()
    finally:
        os.kill(pids["pid"], signal.SIGKILL)


@pytest.mark.long
@pytest.mark.parametrize("path", ["/wait", "/polite"])
async def test_a_cancelled_request_ends_and_its_process_stays(rig: ExecutorRig, path: str) -> None:
    before = await process_of(rig, "one")
    key = rig.offer("two", path)
    await rig.port.until(lambda: key in rig.port.asks[-1].leases)
    rig.port.cancelled.add(key)
    failure = (await rig.outcome(key)).failure
    assert failure is not None
    assert failure.code == "cancelled"
    assert (await process_of(rig, "three"))["pid"] == before["pid"]


async def test_an_attempt_that_lost_its_lease_ends_before_the_next_of_its_request_runs(
    rig: ExecutorRig,
) -> None:
    lost = rig.offer("one", "/polite")
    await rig.running(lost)
    key = rig.offer("one", "/polite", attempt=2, lease_deadline_s=5.0)
    await rig.running(key)
    rig.port.fenced.add(lost)
    failure = (await rig.outcome(key)).failure
    assert failure is not None
    assert failure.code == "expired", "the end of the lost attempt does not end the next one"
    assert not any(finish.lease_key == lost for finish in rig.port.finishes)


@pytest.mark.long
async def test_a_process_that_does_not_obey_a_cancellation_ends(
    rig: ExecutorRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deployments.executors.attempt.CANCEL_GRACE_S", 0.1)
    before = await process_of(rig, "one")
    key = rig.offer("two", "/stubborn")
    await rig.running(key)
    rig.port.signal(Signal(SignalKind.CANCEL, key))
    failure = (await rig.outcome(key)).failure
    assert failure is not None
    assert failure.code == "cancelled"
    assert not alive(before["pid"])
    assert (await process_of(rig, "three"))["pid"] != before["pid"]


@pytest.mark.long
async def test_the_other_requests_of_a_process_that_does_not_obey_are_handed_back(
    rig: ExecutorRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of three cancels of any tenant was a failure of all requests beside it: they failed."""
    monkeypatch.setattr("deployments.executors.attempt.CANCEL_GRACE_S", 0.1)
    neighbour = rig.offer("one", "/polite")
    await rig.running(neighbour)
    stubborn = rig.offer("two", "/stubborn")
    await rig.running(stubborn)
    rig.port.signal(Signal(SignalKind.CANCEL, stubborn))
    await rig.port.until(lambda: rig.port.hand_backs)
    ((handed_back, _, reason),) = rig.port.hand_backs
    assert handed_back == neighbour
    assert "another request in it went on after it was stopped" in reason
    assert not any(finish.lease_key == neighbour for finish in rig.port.finishes)


async def test_a_deadline_ends_a_request(rig: ExecutorRig) -> None:
    failure = (await rig.outcome(rig.offer("one", "/polite", lease_deadline_s=0.5))).failure
    assert failure is not None
    assert failure.code == "expired"


async def test_an_app_runs_as_many_requests_at_once_as_it_says(rig: ExecutorRig) -> None:
    both = [rig.offer(f"polite {number}", "/polite") for number in range(2)]
    for key in both:
        await rig.running(key)
    third = rig.offer("third", text="after them")
    await rig.port.until(lambda: third in rig.port.asks[-1].leases)
    assert rig.port.finishes == []
    rig.port.cancelled.update(both)
    assert (await rig.outcome(third)).output == {"output": "after them"}


async def test_a_request_that_waits_for_a_place_when_its_process_dies_runs_in_the_next_one(
    rig: ExecutorRig,
) -> None:
    process = await process_of(rig, "before")
    both = [rig.offer(f"polite {number}", "/polite") for number in range(2)]
    for key in both:
        await rig.running(key)
    third = rig.offer("third", text="after them")
    await rig.port.until(lambda: third in rig.port.asks[-1].leases)
    os.kill(process["pid"], signal.SIGKILL)
    assert (await rig.outcome(third)).output == {"output": "after them"}
    for key in both:
        failure = (await rig.outcome(key)).failure
        assert failure is not None
        assert failure.code == "replica_died"


async def test_a_request_whose_process_died_before_is_alone_in_its_next_one(
    rig: ExecutorRig,
) -> None:
    neighbour = rig.offer("neighbour", "/polite")
    await rig.running(neighbour)
    suspect = rig.offer("suspect", text="alone", lease_attempt=2, lease_alone=True)
    fresh = rig.offer("fresh", text="after it")
    await rig.port.until(lambda: {suspect, fresh} <= {*rig.port.asks[-1].leases})
    reports = len(rig.port.reports)
    await rig.port.until(lambda: len(rig.port.reports) > reports + 3)
    rig.port.cancelled.add(neighbour)
    assert (await rig.outcome(fresh)).output == {"output": "after it"}
    assert [finish.lease_key for finish in rig.port.finishes] == [neighbour, suspect, fresh]


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "app", "words"),
    [
        ("NoSetup", {}, "setup() failed: ValueError: there are no weights (studio_app.py, line"),
        ("SlowSetup", {"start_timeout_s": 0.5}, "did not start within 0.5 s"),
        ("Nobody", {}, "studio_app.py has no class Nobody"),
        ("Studio", {"requirements": ["darkroom-no-such-package"]}, "cannot be installed"),
    ],
)
async def test_an_app_that_does_not_start_says_why(
    rig: ExecutorRig, name: str, app: dict[str, Any], words: str
) -> None:
    key = rig.offer("one", lease_endpoint=endpoint("/", name, **app))
    failure = (await rig.outcome(key)).failure
    assert failure is not None
    assert (failure.code, failure.retryable) == ("app_not_started", True)
    assert words in failure.message


async def variables(rig: ExecutorRig, name: str, *secrets: str) -> dict[str, str]:
    """Variables of the process that runs a request of an endpoint with these secrets."""
    of = endpoint("/variables", secrets=secrets)
    return dict((await rig.outcome(rig.offer(name, lease_endpoint=of))).output or {})


@pytest.mark.long
async def test_only_the_process_of_an_endpoint_that_names_a_secret_has_it(rig: ExecutorRig) -> None:
    rig.source.kept = [Secret("HF_TOKEN", "", "hf_one")]
    without = await variables(rig, "one")
    having = await variables(rig, "two", "HF_TOKEN")
    assert (without.get("HF_TOKEN"), having["HF_TOKEN"]) == (None, "hf_one")
    assert without["pid"] != having["pid"]
    assert "hf_one" not in repr(rig.port.finishes[0])


@pytest.mark.long
async def test_a_replaced_secret_starts_another_process_and_ends_the_one_before(
    rig: ExecutorRig,
) -> None:
    rig.source.kept = [Secret("HF_TOKEN", "", "hf_one")]
    before = await variables(rig, "one", "HF_TOKEN")
    again = await variables(rig, "two", "HF_TOKEN")
    rig.source.kept = [Secret("HF_TOKEN", "", "hf_two")]
    after = await variables(rig, "three", "HF_TOKEN")
    assert (before["pid"], before["HF_TOKEN"]) == (again["pid"], "hf_one")
    assert after["HF_TOKEN"] == "hf_two"
    assert not alive(int(before["pid"]))


async def test_a_secret_that_is_not_set_is_named_and_not_tried_again(rig: ExecutorRig) -> None:
    key = rig.offer("one", lease_endpoint=endpoint("/", secrets=["HF_TOKEN"]))
    failure = (await rig.outcome(key)).failure
    assert failure is not None
    assert (failure.code, failure.retryable) == ("secret_missing", False)
    assert "darkroom secrets set HF_TOKEN --installation" in failure.message


async def test_entries_without_a_usable_app_say_what_to_do(rig: ExecutorRig) -> None:
    broken = endpoint("/", concurrency="many")
    failure = (await rig.outcome(rig.offer("one", lease_endpoint=broken))).failure
    assert failure is not None
    assert "darkroom deploy" in failure.message


async def test_files_of_a_lost_lease_are_not_stored(rig: ExecutorRig) -> None:
    rig.storage.objects["u/cat.png"] = PNG
    lease = rig.lease("one", "/copy", image_url="http://anywhere/files/u/cat.png")
    rig.source.fenced.add(lease.key)
    rig.port.offer(lease)
    failure = (await rig.outcome(lease.key)).failure
    assert failure is not None
    assert failure.code == "fenced"
    assert "r/one/1/0" not in rig.storage.objects


@pytest.mark.long
async def test_closing_hands_back_what_runs_and_ends_every_process(tmp_path: Path) -> None:
    rig = ExecutorRig(tmp_path)
    await rig.replica.start()
    pid = (await process_of(rig, "one"))["pid"]
    key = rig.offer("two", "/polite")
    await rig.running(key)
    await rig.replica.aclose()
    assert rig.port.handed_back == [key]
    assert not alive(pid)
    assert rig.port.presences[-1].stage == "draining"


@pytest.mark.long
async def test_an_app_makes_room_for_another_one_when_it_is_idle(tmp_path: Path) -> None:
    rig = ExecutorRig(tmp_path, max_apps=1)
    await rig.replica.start()
    first = (await process_of(rig, "one"))["pid"]
    busy = rig.offer("two", "/polite")
    await rig.running(busy)
    other = rig.offer("three", lease_endpoint=endpoint("/", "NoSetup"))
    await rig.port.until(lambda: other in rig.port.asks[-1].leases)
    assert alive(first)
    rig.port.cancelled.add(busy)
    await rig.outcome(other)
    assert not alive(first)
    await rig.replica.aclose()


async def test_requests_that_wait_for_one_start_start_one_process(rig: ExecutorRig) -> None:
    keys = [rig.offer(f"request {number}", "/process") for number in range(4)]
    outcomes = await asyncio.gather(*(rig.outcome(key) for key in keys))
    assert len({(outcome.output or {})["pid"] for outcome in outcomes}) == 1


class BucketSource(FakeAppSource):
    """Gives forms for the client's bucket. That of the request `forged` has another signature."""

    bucket: ClassVar[Bucket]

    async def file_ticket(
        self, lease_key: LeaseKey, tenant: str, number: int, media_type: str
    ) -> UploadTicket:
        del tenant, media_type
        ticket = self.bucket.ticket(
            self.bucket.policy(TYPED), f"{lease_key.request_id}-{number}.png"
        )
        return forge_signature(ticket) if lease_key.request_id == "forged" else ticket


@pytest.mark.long
async def test_files_of_an_app_go_to_the_bucket_of_the_client_and_a_refusal_ends_the_request(
    tmp_path: Path, bucket: Bucket
) -> None:
    BucketSource.bucket = bucket
    rig = ExecutorRig(tmp_path, buckets=policy_uploader(), source=BucketSource)
    await rig.replica.start()
    try:
        image = "data:image/png;base64,aGVsbG8="
        outcome = await rig.outcome(rig.offer("one", "/copy", image_url=image))
        assert bucket.objects() == {"out/one-0.png": b"hello"}
        (artifact,) = outcome.artifacts
        assert artifact.key.endswith(f"/{bucket.name}/out/one-0.png")
        assert outcome.output is not None
        assert outcome.output["image"]["artifact"] == artifact.key
        assert rig.storage.objects == {}
        failure = (await rig.outcome(rig.offer("forged", "/copy", image_url=image))).failure
        assert failure is not None
        assert (failure.code, failure.retryable) == ("upload_policy_failed", False)
        assert "SignatureDoesNotMatch" in failure.message
    finally:
        await rig.replica.aclose()
