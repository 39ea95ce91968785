"""Requests of Cog models on a replica: the real Cog server, an in-memory ingress and storage."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import pytest_asyncio

from deployments.executors.cog.exchange import LEFT_BY_COG
from serve_app.domain.lease import LeaseKey
from serve_app.domain.outcome import Failure, Outcome
from tests.deployments.executors.cog.models import CogModel, model
from tests.deployments.executors.rig import ExecutorRig

PNG = b"\x89PNG\r\n\x1a\n"
URL = "http://anywhere/files/u/cat.png"


REGIONAL = """\
from cog import BasePredictor, current_scope

class Regional(BasePredictor):
    def predict(self, text: str) -> str:
        return f"{text}: {sorted(current_scope().context.items())}"
"""


SEVERAL = """\
import asyncio
import os
from pathlib import Path
from cog import BasePredictor

class Several(BasePredictor):
    async def predict(self, started: str = "") -> str:
        if not started:
            os._exit(3)
        Path(started).touch()
        await asyncio.sleep(600)
"""


SCORER = """\
from cog import BaseModel, BasePredictor

class Output(BaseModel):
    scores: list[float]

class Scorer(BasePredictor):
    def predict(self, number: str) -> Output:
        return Output(scores=[0.5, float(number)])
"""


class Served:
    """A model on a replica."""

    def __init__(self, rig: ExecutorRig, model: CogModel, options: dict[str, Any]) -> None:
        self.rig = rig
        self.model = model
        self._endpoint = model.endpoint(**options)
        rig.storage.objects["u/cat.png"] = PNG

    def offer(self, **arguments: Any) -> LeaseKey:
        lease = self.rig.lease(uuid4().hex, lease_endpoint=self._endpoint)
        lease = replace(lease, input=arguments)
        self.rig.port.offer(lease)
        return lease.key

    async def ask(self, **arguments: Any) -> Outcome:
        return await self.rig.outcome(self.offer(**arguments))

    async def fail(self, **arguments: Any) -> Failure:
        failure = (await self.ask(**arguments)).failure
        assert failure is not None
        return failure

    async def output(self, **arguments: Any) -> Any:
        outcome = await self.ask(**arguments)
        assert outcome.failure is None
        return (outcome.output or {})["output"]

    def file(self, output: dict[str, Any]) -> bytes:
        return self.rig.storage.objects[output["artifact"]]

    async def lines(self, lease_key: LeaseKey) -> list[str]:
        return [text for _, text in await self.rig.lines(lease_key)]


Serve = Callable[..., Awaitable[Served]]

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def serve(tmp_path_factory: pytest.TempPathFactory, apps_dir: Path) -> AsyncIterator[Serve]:
    """Function that serves a predictor. Its server is shared by the tests of this module."""
    served: dict[str, Served] = {}
    models: dict[str, CogModel] = {}

    async def make(
        target: str, mode: str = "predict", more: str = "", source: str = "", **options: Any
    ) -> Served:
        name = f"{target} {options}"
        if name not in served:
            folder = tmp_path_factory.mktemp("model")
            if target not in models:
                models[target] = await model(folder, apps_dir, target, mode, more, source)
            cog_model = models[target]
            rig = ExecutorRig(folder, code=cog_model.bundle.content, apps_dir=apps_dir)
            served[name] = Served(rig, cog_model, options)
            await rig.replica.start()
        return served[name]

    yield make
    for server in served.values():
        await server.rig.replica.aclose()
        async with asyncio.timeout(120.0):
            # They were killed, but are perhaps not gone yet.
            while processes(server.rig.scratch):  # noqa: ASYNC110  # other processes tell nobody
                await asyncio.sleep(0.02)


@pytest.mark.long
async def test_a_model_paints_on_a_file_and_reports_what_it_does(serve: Serve) -> None:
    painter = await serve("Painter")
    key = painter.offer(text="a cat", image=URL, steps=4, seed=None)
    outcome = await painter.rig.outcome(key)
    assert outcome.failure is None
    output = (outcome.output or {})["output"]
    assert output == {
        "artifact": f"r/{key.request_id}/1/0",
        "content_type": "image/png",
        "file_name": "painting.png",
    }
    assert painter.file(output) == PNG + b"a cat 4 0.5 oil None.png"
    # Bars of tqdm are progress, all else is the log.
    assert await painter.lines(key) == ["painting a cat with oil"]
    assert not list((painter.rig.scratch / "requests").iterdir())

    again = await painter.output(text="dog", steps=1, seed=7, strength=1, style="ink")
    assert painter.file(again) == b"dog 1 1 ink 7"


async def test_what_the_schema_forbids_is_refused_by_cog_too(serve: Serve) -> None:
    painter = await serve("Painter")
    for field, arguments, words in (
        ("steps", {"text": "a", "steps": 51}, "50"),
        ("style", {"text": "a", "style": "chalk"}, "chalk"),
        ("text", {}, "Field required"),
        ("text", {"text": "NO"}, "NO"),
    ):
        failure = await painter.fail(**arguments)
        assert (failure.code, failure.field) == ("invalid_input", field)
        assert words in failure.message


async def test_a_failed_prediction_says_why_and_keeps_its_last_lines(serve: Serve) -> None:
    painter = await serve("Painter")
    key = painter.offer(text="a", then="fail")
    failure = (await painter.rig.outcome(key)).failure
    assert failure is not None
    assert (failure.code, failure.retryable) == ("pipeline_failed", False)
    assert "there is no paint left" in failure.message
    assert "about to fail" in await painter.lines(key)
    # The server goes on.
    assert await painter.output(text="b")


@pytest.mark.parametrize("number", ["nan", "-inf"])
async def test_a_number_that_json_does_not_have_fails_the_prediction(
    serve: Serve, number: str
) -> None:
    scorer = await serve("Scorer", source=SCORER)
    assert await scorer.output(number="1") == {"scores": [0.5, 1.0]}
    failure = await scorer.fail(number=number)
    assert failure.code == "pipeline_failed"
    assert "a number that is NaN or infinite, which JSON does not have" in failure.message


async def test_a_worker_that_crashes_is_replaced_and_its_request_tried_again(
    serve: Serve,
) -> None:
    painter = await serve("Painter")
    for then, end in (
        ("die", "ended with status 3"),
        ("signal 11", "was killed by SIGSEGV"),
        ("signal 9", "was killed by SIGKILL, perhaps for lack of memory"),
    ):
        failure = await painter.fail(text="a", then=then)
        assert (failure.code, failure.retryable) == ("replica_died", True)
        assert failure.message == f"The worker of predict.py:Painter {end}."
        assert await painter.output(text="b")


@pytest.mark.long
async def test_a_worker_that_crashes_ends_each_of_its_requests(
    serve: Serve, tmp_path: Path
) -> None:
    several = await serve("Several", source=SEVERAL, more="concurrency: {max: 3}\n")
    started = [tmp_path / name for name in ("a", "b")]
    requests = [several.offer(started=str(path)) for path in started]
    for path in started:
        await until_exists(several, path)
    requests.append(several.offer())
    for key in requests:
        failure = (await several.rig.outcome(key)).failure
        assert failure is not None
        assert (failure.code, failure.retryable) == ("replica_died", True)


async def test_a_server_that_is_killed_is_replaced_and_its_request_tried_again(
    serve: Serve, tmp_path: Path
) -> None:
    painter = await serve("Painter")
    wait = tmp_path / "never"
    key = painter.offer(text="a", then=f"wait for {wait}")
    await until_exists(painter, Path(f"{wait}.started"))
    for pid in processes(painter.rig.scratch):
        with contextlib.suppress(ProcessLookupError):  # the end of one ends the others
            os.kill(pid, signal.SIGKILL)
    failure = (await painter.rig.outcome(key)).failure
    assert failure is not None
    assert (failure.code, failure.retryable) == ("replica_died", True)
    assert await painter.output(text="b")


async def test_a_cancelled_prediction_ends_and_its_server_stays(
    serve: Serve, tmp_path: Path
) -> None:
    painter = await serve("Painter")
    wait = tmp_path / "never"
    key = painter.offer(text="a", then=f"wait for {wait}")
    await until_exists(painter, Path(f"{wait}.started"))
    before = processes(painter.rig.scratch)
    painter.rig.port.cancelled.add(key)
    failure = (await painter.rig.outcome(key)).failure
    assert failure is not None
    assert failure.code == "cancelled"
    assert await painter.output(text="b")
    assert processes(painter.rig.scratch) == before


async def test_the_files_of_a_list_keep_their_order(serve: Serve) -> None:
    frames = await serve("Frames")
    key = frames.offer(count=12)
    output = ((await frames.rig.outcome(key)).output or {})["output"]
    assert [frames.file(frame)[:3].split()[0] for frame in output] == [
        str(number).encode() for number in range(12)
    ]
    assert output[0]["content_type"] == "text/plain"
    # Cog's server would keep them for ever.
    assert not list(LEFT_BY_COG.glob(f"{key.request_id}-*"))


async def test_text_that_comes_in_parts_is_one_text_and_requests_run_at_once(
    serve: Serve, tmp_path: Path
) -> None:
    writer = await serve("Writer")
    meet = str(tmp_path / "meeting")
    both = [writer.offer(words=number, meet=meet) for number in (1, 2)]
    texts = [((await writer.rig.outcome(key)).output or {})["output"] for key in both]
    assert texts == ["word0 ", "word0 word1 "]


async def test_iterators_are_lists_and_optional_inputs_may_be_left_out(serve: Serve) -> None:
    counter = await serve("Counter")
    assert await counter.output(to=3) == [0, 1, 2]
    assert await counter.output(to=3, start=2) == [2]
    assert await counter.output(to=0) == []


async def test_objects_lists_of_files_and_secrets_travel(serve: Serve) -> None:
    reporter = await serve("Reporter")
    report = await reporter.output(files=[URL, URL], old=URL, key="sesame")
    assert report["title"] == "********** sesame"
    assert (report["tags"], report["nothing"]) == (["a", "b"], None)
    assert report["picture"]["content_type"] == "image/jpeg"
    assert reporter.file(report["picture"]) == 3 * PNG


async def test_a_training_is_an_endpoint_of_its_own(serve: Serve) -> None:
    trainer = await serve("train", "train")
    output = await trainer.output(data=URL, epochs=2)
    assert trainer.file(output) == 2 * PNG
    failure = await trainer.fail(data=URL, epochs=11)
    assert (failure.code, failure.field) == ("invalid_input", "epochs")


async def test_a_function_is_a_model_and_gets_the_variables_of_its_project(serve: Serve) -> None:
    served = await serve("environment", more="environment: ['COLOUR=blue']\n")
    assert await served.output(name="COLOUR") == "blue"
    assert await served.output(name="PGPASSWORD") == "none"


async def test_a_model_that_reads_the_context_of_a_call_gets_it_beside_its_input(
    serve: Serve,
) -> None:
    regional = await serve("Regional", source=REGIONAL)
    assert await regional.output(text="a", context={"region": "eu", "b": "c"}) == (
        "a: [('b', 'c'), ('region', 'eu')]"
    )
    assert await regional.output(text="a") == "a: []"
    assert await regional.output(text="a", context=None) == "a: []"


@pytest.mark.long
async def test_a_setup_that_fails_says_why(serve: Serve) -> None:
    failure = await (await serve("Ill")).fail()
    assert (failure.code, failure.retryable) == ("app_not_started", True)
    assert "there are no weights" in failure.message


@pytest.mark.long
async def test_a_model_that_calls_itself_unhealthy_is_replaced(serve: Serve) -> None:
    sick = await serve("Sick")
    before = await sick.fail()
    assert (before.code, before.retryable) == ("replica_died", True)
    assert "UNHEALTHY" in before.message


@pytest.mark.long
async def test_a_setup_without_end_is_given_up(serve: Serve) -> None:
    failure = await (await serve("Endless", start_timeout_s=0.5)).fail()
    assert failure.code == "app_not_started"
    assert "was not ready within 0.5 s" in failure.message


async def until_exists(served: Served, path: Path) -> None:
    await served.rig.port.until(path.exists)


def processes(scratch: Path) -> set[int]:
    """Processes whose files are below ``scratch``."""
    pids: set[int] = set()
    for process in Path("/proc").iterdir():
        if process.name.isdecimal():
            try:
                variables = (process / "environ").read_bytes()
            except OSError:
                continue
            if f"HOME={scratch}".encode() in variables:
                pids.add(int(process.name))
    return pids
