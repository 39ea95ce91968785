"""Requests of hosted providers against servers that were written from the providers' own
documentation: lost answers, refusals, outputs that are no files, and replicas that end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from serve_app.domain.endpoint import Endpoint
from serve_app.domain.lease import LeaseKey, Signal, SignalKind
from serve_app.postgres.database import Database
from tests.deployments.executors.hosted.desk import HostedDesk
from tests.fakes import openai_server
from tests.fakes.fal_server import FalServer
from tests.fakes.openai_server import OpenAiServer
from tests.fakes.provider_server import KEY, Call, Job, ProviderServer, Reply
from tests.fakes.replicate_server import VERSION, ReplicateServer
from tests.queue.database import Ingress
from tests.wire.served import Address

FAMILIES = ("fal", "replicate", "openai")
SERVERS = {"fal": FalServer, "replicate": ReplicateServer, "openai": OpenAiServer}
ENDPOINTS = {"fal": "fal-ai/flux/dev", "replicate": "owner/model", "openai": "gpt-image-1"}
VIDEO = {"endpoint": "sora-2", "makes": "videos"}


class Bench:
    """A replica, and a server of each provider."""

    def __init__(self, desk: HostedDesk) -> None:
        self.desk = desk
        self.fal = FalServer()
        self.replicate = ReplicateServer()
        self.openai = OpenAiServer()

    def server(self, family: str) -> ProviderServer:
        return {"fal": self.fal, "replicate": self.replicate, "openai": self.openai}[family]

    def endpoint(self, family: str, output: Any = None, **hosted: Any) -> Endpoint:
        origin = self.server(family).origin
        options = {
            "endpoint": ENDPOINTS[family],
            "url": origin if family == "fal" else f"{origin}/v1",
            **({"history_url": origin} if family == "fal" else {}),
            **hosted,
        }
        endpoint = self.desk.endpoint(family, None, **options)
        return endpoint if output is None else _with_output(endpoint, output)


def _with_output(endpoint: Endpoint, output: Any) -> Endpoint:
    return replace(endpoint, options={**endpoint.options, "output_schema": output})


@pytest.fixture
async def bench(tmp_path: Path, database: Database, ingress: Ingress) -> AsyncIterator[Bench]:
    desk = HostedDesk(tmp_path, database, await ingress(), Address("http://127.0.0.1:9", KEY))
    hosted_bench = Bench(desk)
    servers = [hosted_bench.server(family) for family in FAMILIES]
    for server in servers:
        await server.start()
    await desk.start()
    yield hosted_bench
    await desk.aclose()
    for server in servers:
        await server.aclose()


@pytest.mark.parametrize("family", FAMILIES)
async def test_a_result_has_the_providers_files_as_ours(bench: Bench, family: str) -> None:
    outcome = await bench.desk.outcome(bench.endpoint(family), prompt="a lighthouse")
    assert outcome.failure is None, outcome.failure
    (artifact,) = outcome.artifacts
    assert artifact.media_type == "image/png"
    assert bench.server(family).origin not in repr(outcome.output)
    (job,) = bench.server(family).jobs
    assert job.input["prompt"] == "a lighthouse"


@pytest.mark.long
@pytest.mark.parametrize(
    ("family", "hosted"),
    [
        ("fal", {}),
        ("fal", {"endpoint": "workflows/owner/mine"}),
        ("replicate", {}),
        ("replicate", {"endpoint": VERSION}),
        ("openai", VIDEO),
    ],
)
async def test_an_answer_that_is_lost_after_minutes_is_found_among_many(
    bench: Bench, family: str, hosted: dict[str, Any]
) -> None:
    """The job has ended when it is looked for, others came after it, and equal ones before it."""
    server, desk = bench.server(family), bench.desk
    server.page = 1  # type: ignore[attr-defined]  # of those that have lists
    endpoint = bench.endpoint(family, **hosted)
    earlier = await server.accept(str(endpoint.options["hosted"]["endpoint"]), {"prompt": "x"})
    earlier.sent_at -= timedelta(minutes=30)

    async def minutes_pass(call: Call) -> None:
        if server.is_submit(call):
            desk.rig.later = timedelta(minutes=10)
            for number in range(3):
                await server.accept(server.jobs[-1].endpoint, {"prompt": f"another {number}"})

    server.before_answer = minutes_pass
    server.faults = ["lost"]
    outcome = await desk.outcome(endpoint, prompt="x")
    assert outcome.failure is None, outcome.failure
    submits = [call for call in server.calls if server.is_submit(call)]
    assert len(submits) == 1
    assert await desk.calls() == [("accepted", server.jobs[1].id)]


async def test_a_video_is_asked_for_by_a_form_as_openais_client_does(bench: Bench) -> None:
    outcome = await bench.desk.outcome(
        bench.endpoint("openai", **VIDEO), prompt="x", seconds="4", size="720x1280"
    )
    assert outcome.failure is None, outcome.failure
    (job,) = bench.openai.jobs
    assert job.input == {"model": "sora-2", "prompt": "x", "seconds": "4", "size": "720x1280"}


async def test_a_film_of_a_provider_fills_no_disk(bench: Bench) -> None:
    bench.openai.film = b"x" * (2**20 + 1)
    outcome = await bench.desk.outcome(
        bench.endpoint("openai", **VIDEO), prompt="x", seconds="4", size="720x1280"
    )
    assert outcome.failure is not None
    assert "the file is larger than 1048576 bytes" in outcome.failure.message


async def test_a_lost_job_of_fal_that_runs_is_found_when_it_has_ended(bench: Bench) -> None:
    server = bench.fal
    server.holds, server.faults = True, ["lost"]
    looked = asyncio.Event()

    async def look(call: Call) -> None:
        if "by-endpoint" in call.path:
            looked.set()

    server.before_answer = look
    key = await bench.desk.offer(bench.endpoint("fal"), prompt="x")
    await looked.wait()
    server.end()
    outcome = await bench.desk.rig.outcome(key)
    assert outcome.failure is None, outcome.failure
    assert len(server.jobs) == 1


@pytest.mark.long
@pytest.mark.parametrize("family", FAMILIES)
async def test_a_provider_that_is_busy_gets_the_call_again_after_its_pause(
    bench: Bench, family: str
) -> None:
    server = bench.server(family)
    busy = Reply(429, {"detail": "Request was throttled."}, {"retry-after": "0"})
    server.faults = [busy, busy]
    outcome = await bench.desk.outcome(bench.endpoint(family), prompt="x")
    assert outcome.failure is None, outcome.failure
    assert len(server.jobs) == 1
    assert [state for state, _ in await bench.desk.calls()] == ["refused", "refused", "accepted"]


@pytest.mark.long
@pytest.mark.parametrize("family", FAMILIES)
async def test_a_request_that_is_cancelled_while_its_provider_is_busy_is_not_sent(
    bench: Bench, family: str
) -> None:
    server, rig = bench.server(family), bench.desk.rig
    server.faults = [Reply(429, {"detail": "Request was throttled."}, {"retry-after": "1"})]
    key = await bench.desk.offer(bench.endpoint(family), prompt="x")
    await bench.desk.until(lambda calls: calls == [("refused", None)], bench.desk.calls)
    rig.port.signal(Signal(SignalKind.CANCEL, key))
    outcome = await rig.outcome(key)
    assert outcome.failure is not None
    assert outcome.failure.code == "cancelled"
    assert server.jobs == []
    assert "sending" not in dict(await bench.desk.calls())


async def test_a_job_that_has_failed_as_a_server_that_is_away_would_is_not_read_for_an_hour(
    bench: Bench,
) -> None:
    """fal answers for a job's result with the status that the job has ended with."""
    bench.fal.error = "The runner disconnected."
    bench.fal.outputs = lambda _: Reply(503, {"detail": "The runner disconnected."})
    outcome = await bench.desk.outcome(bench.endpoint("fal"), prompt="x")
    assert outcome.failure is not None
    assert outcome.failure.code == "hosted_failed"
    assert "The runner disconnected." in outcome.failure.message


async def test_a_quota_that_is_used_up_is_not_waited_for(bench: Bench) -> None:
    used_up = openai_server.error(429, "You exceeded your current quota.", "insufficient_quota")
    bench.openai.faults = [used_up]
    outcome = await bench.desk.outcome(bench.endpoint("openai"), prompt="x")
    assert outcome.failure is not None
    assert outcome.failure.code == "hosted_failed"
    assert "asks for payment (429): You exceeded your current quota" in outcome.failure.message


@pytest.mark.long
@pytest.mark.parametrize("status", [500, 502, 503, 504])
async def test_a_5xx_is_looked_for_and_not_sent_again(bench: Bench, status: int) -> None:
    bench.replicate.faults = [Reply(status, {"detail": "Internal"})]
    outcome = await bench.desk.outcome(bench.endpoint("replicate", grace_s=0.1), prompt="x")
    assert outcome.failure is not None
    assert outcome.failure.code == "hosted_unconfirmed"
    assert bench.replicate.jobs == []


async def test_a_job_that_has_failed_is_the_requests_failure(bench: Bench) -> None:
    bench.replicate.status, bench.replicate.error = "failed", "CUDA out of memory"
    outcome = await bench.desk.outcome(bench.endpoint("replicate"), prompt="x")
    assert outcome.failure is not None
    assert outcome.failure.message == "Replicate: CUDA out of memory"
    wrong = {"detail": [{"loc": ["body", "seed"], "msg": "Must be a number", "type": "x"}]}
    bench.fal.outputs = lambda _: Reply(422, wrong)
    outcome = await bench.desk.outcome(bench.endpoint("fal"), prompt="x")
    assert outcome.failure is not None
    assert (outcome.failure.code, outcome.failure.field) == ("invalid_input", "seed")


@pytest.mark.parametrize("family", ["fal", "replicate"])
async def test_a_key_that_is_refused_ends_the_request(bench: Bench, family: str) -> None:
    source = bench.desk.rig.source
    source.kept = [replace(entry, value="wrong") for entry in source.kept]
    outcome = await bench.desk.outcome(bench.endpoint(family), prompt="x")
    assert outcome.failure is not None
    assert "refused the key in the secret PROVIDER_KEY (401)" in outcome.failure.message


async def test_equal_calls_without_a_list_are_made_at_the_same_time(bench: Bench) -> None:
    server = bench.openai
    server.go.clear()
    keys = [await bench.desk.offer(bench.endpoint("openai"), prompt="x") for _ in range(3)]
    await server.at_once(3)
    server.go.set()
    for key in keys:
        outcome = await bench.desk.rig.outcome(key)
        assert outcome.failure is None, outcome.failure


async def test_a_replica_that_ends_waits_for_images_that_are_being_made(bench: Bench) -> None:
    server, rig = bench.openai, bench.desk.rig
    server.go.clear()
    bench.fal.holds = True
    key = await bench.desk.offer(bench.endpoint("openai"), prompt="x")
    followed = await bench.desk.offer(bench.endpoint("fal"), prompt="x")
    await server.at_once(1)
    await bench.desk.until(lambda calls: "accepted" in dict(calls), bench.desk.calls)
    closing = asyncio.create_task(rig.replica.aclose())

    def handed_back() -> list[LeaseKey]:
        return [lease_key for lease_key, *_ in rig.port.hand_backs]

    await rig.port.until(lambda: followed in handed_back())
    server.go.set()
    outcome = await rig.outcome(key)
    await closing
    assert outcome.failure is None, outcome.failure
    assert handed_back() == [followed]


async def test_a_failed_request_leaves_nothing_in_memory(bench: Bench) -> None:
    bench.replicate.status = "failed"
    endpoint = bench.endpoint("replicate")
    await bench.desk.outcome(endpoint, prompt="x")
    await bench.desk.outcome(bench.endpoint("replicate", endpoint="a"), prompt="x")
    (app,) = bench.desk.rig.host._apps.values()  # its memory is the question
    assert app.executor._sent == {}  # type: ignore[attr-defined]


TEXTS = {
    "answer": "https://example.com/a is what I would read, and http://127.0.0.1:9/b.",
    "link": "https://example.com/page",
}


async def test_texts_that_begin_with_a_url_are_no_files(bench: Bench) -> None:
    bench.replicate.outputs = lambda _: dict(TEXTS)
    outcome = await bench.desk.outcome(bench.endpoint("replicate"), prompt="x")
    assert outcome.failure is None, outcome.failure
    assert outcome.output == TEXTS
    bench.fal.outputs = lambda _: {"results": [{"url": TEXTS["link"], "title": "A page"}]}
    outcome = await bench.desk.outcome(bench.endpoint("fal"), prompt="x")
    assert outcome.output == {"results": [{"url": TEXTS["link"], "title": "A page"}]}


@pytest.mark.parametrize("family", ["fal", "replicate"])
async def test_an_output_cannot_name_a_file_of_the_machine(
    bench: Bench, tmp_path: Path, family: str
) -> None:
    secret = tmp_path / "token"
    secret.write_text("secret")
    echo = {"$file": str(secret), "media_type": "text/plain"}
    bench.server(family).outputs = lambda _: {"echo": [echo], "seed": 7}
    outcome = await bench.desk.outcome(bench.endpoint(family), prompt="x")
    assert outcome.failure is None, outcome.failure
    assert (outcome.output, outcome.artifacts) == ({"echo": [echo], "seed": 7}, ())


async def test_a_schema_says_which_texts_are_files(bench: Bench) -> None:
    def made(job: Job) -> dict[str, str]:
        file = f"{bench.replicate.origin}/files/{job.id}.png"
        return {"picture": file, "source": file}

    bench.replicate.outputs = made
    text = {"type": "string"}
    schema = {
        "type": "object",
        "properties": {"picture": {**text, "format": "uri"}, "source": text},
    }
    outcome = await bench.desk.outcome(bench.endpoint("replicate", schema), prompt="x")
    assert outcome.failure is None, outcome.failure
    (artifact,) = outcome.artifacts
    output = dict(outcome.output or {})
    assert output["picture"]["artifact"] == artifact.key
    assert output["source"].startswith(bench.replicate.origin)


async def test_a_paid_output_whose_file_is_gone_is_kept_with_a_warning(bench: Bench) -> None:
    gone = f"{bench.fal.origin}/files/gone.txt"
    bench.fal.outputs = lambda _: {"file": {"url": gone, "file_name": "a.txt"}, "seed": 7}
    key = await bench.desk.offer(bench.endpoint("fal"), prompt="x")
    outcome = await bench.desk.rig.outcome(key)
    assert outcome.failure is None, outcome.failure
    assert outcome.output == {"file": {"url": gone, "file_name": "a.txt"}, "seed": 7}
    lines = await bench.desk.rig.lines(key)
    (warning,) = [text for level, text in lines if level == "WARNING"]
    assert "cannot be fetched" in warning
    assert "The output has the provider's URL, which may expire soon." in warning
