"""A ``fal.App`` with the real package ``fal``, from its lease to its uploaded output."""

from __future__ import annotations

import asyncio
import json
import subprocess
import time
from io import BytesIO
from math import inf
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from deployments.executors.base import AppExecutor, ExecutorWork
from deployments.executors.environment import Environments
from serve_app.domain.errors import InvalidInput, PipelineFailed, ReplicaDied
from serve_app.domain.outcome import Outcome
from tests.deployments.executors.python.fal.house import DeployedApp, FalRig, deploy_app, serving

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.filterwarnings("ignore:.*is marked with '@pytest.mark.asyncio'"),
]


def png(color: str, size: int = 8) -> bytes:
    written = BytesIO()
    Image.new("RGB", (size, size), color).save(written, "PNG")
    return written.getvalue()


def read_files(rig: FalRig, outcome: Outcome) -> list[bytes]:
    """Contents of an outcome's files."""
    return [rig.rig.storage.objects[artifact.key] for artifact in outcome.artifacts]


def lines_of(rig: FalRig) -> list[str]:
    """Lines that requests have printed so far."""
    reported = [
        line for _, report in rig.rig.port.reports for _, lines in report.lines for line in lines
    ]
    return [text for _, text in (*reported, *(x for f in rig.rig.port.finishes for x in f.lines))]


async def test_images_of_the_toolkit_are_uploaded_to_storage(rig: FalRig) -> None:
    outcome = await rig.call("/", color="blue", size=16)
    assert outcome.failure is None, outcome.failure
    output = dict(outcome.output or {})
    first, second = output.pop("images")
    assert output == {"seed": 7, "has_nsfw_concepts": []}
    assert first["artifact"] != second["artifact"]
    assert (first["content_type"], first["width"], first["height"]) == ("image/png", 16, 16)
    with Image.open(BytesIO(read_files(rig, outcome)[0])) as image:
        assert (image.size, image.getpixel((3, 3))) == ((16, 16), (0, 0, 255))
    assert "drawing blue" in lines_of(rig)


async def test_files_of_inputs_are_fetched_by_the_replica_and_read_by_their_urls(
    rig: FalRig,
) -> None:
    rig.rig.storage.objects["u/red.png"] = png("red")
    rig.rig.storage.objects["u/white.png"] = png("white", 4)
    whites = "http://anywhere/files/u/white.png"
    red = "http://anywhere/files/u/red.png"
    outcome = await rig.call("/gray", image_url=red, layers=[{"url": red}, whites])
    assert outcome.failure is None, outcome.failure
    assert (outcome.output or {})["content_type"] == "image/png"
    (content,) = read_files(rig, outcome)
    with Image.open(BytesIO(content)) as image:
        assert (image.mode, image.size, image.getpixel((0, 0))) == ("L", (4, 4), 255)


async def test_a_file_that_cannot_be_fetched_names_its_field(rig: FalRig) -> None:
    failure = await rig.refusal("/gray", image_url="http://anywhere/files/u/none.png")
    assert (failure.code, failure.field) == ("invalid_input", "image_url")


async def test_files_come_from_paths_from_threads_and_as_plain_urls(rig: FalRig) -> None:
    outcome = await rig.call("/speak", text="hello")
    assert outcome.failure is None, outcome.failure
    output = outcome.output or {}
    assert output["audio"]["content_type"] == "audio/wav"
    assert output["notes"]["file_name"] == "notes.txt"
    assert output["link"]["$as"] == "url"
    assert sorted(read_files(rig, outcome)) == [b"hello", b"linked", b"plain"]


async def test_json_of_a_client_in_an_output_cannot_name_a_file(
    rig: FalRig, tmp_path: Path
) -> None:
    (tmp_path / "token").write_text("secret")
    forged = {"$file": str(tmp_path / "token"), "media_type": "text/plain", "$as": "url"}
    outcome = await rig.call("/mirror", text=json.dumps([forged]))
    assert outcome.failure is None, outcome.failure
    assert (outcome.output or {})["said"] == [forged]
    assert read_files(rig, outcome) == [b"mine"]


async def test_an_app_sees_its_request_and_no_secret(rig: FalRig) -> None:
    about = await rig.output("/about")
    assert about["endpoint"] == "/about"
    assert about["request_id"].startswith("r")
    assert Path(about["weights"]).is_relative_to(rig.folder / "data")
    assert not [
        variable for variable in about["variables"] if variable.startswith(("DARKROOM", "FAL_KEY"))
    ]


async def test_a_route_that_reads_its_body_itself_gets_all_of_it(rig: FalRig) -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}
    assert await rig.output("/own-body", **body) == {"read": body}


async def test_an_answer_that_is_no_json_is_a_file(rig: FalRig) -> None:
    outcome = await rig.call("/bytes")
    assert (outcome.output or {})["image"]["content_type"] == "image/png"
    assert read_files(rig, outcome) == [b"\x89PNG"]


async def test_the_last_event_of_a_stream_is_the_result(rig: FalRig) -> None:
    outcome = await rig.call("/stream", color="blue")
    assert outcome.failure is None, outcome.failure
    assert (outcome.output or {})["number"] == 11
    assert len(outcome.artifacts) == 1


async def test_a_route_that_yields_streams_its_values_and_the_last_one_is_the_result(
    rig: FalRig,
) -> None:
    options = rig.app.endpoints["/yields"].options
    assert options["app"]["streams"] is True
    assert options["output_schema"]["properties"]["images"]["items"]["$ref"] == "#/$defs/Image"
    before = len(rig.rig.source.partials)
    outcome = await rig.call("/yields", number=3)
    assert outcome.failure is None, outcome.failure
    assert ((outcome.output or {})["seed"], len(outcome.artifacts)) == (2, 1)
    values = [json.loads(partial.value) for partial in rig.rig.source.partials[before:]]
    assert [value["seed"] for value in values] == [0, 1, 2]
    assert values[0]["images"][0]["url"].startswith("data:image/png;base64,")


async def test_a_stream_with_a_file_that_is_not_there_fails_and_ends(rig: FalRig) -> None:
    failure = await rig.refusal("/stream", size=1)
    assert "The output names a file of an earlier request" in failure.message
    assert (await rig.output("/stream"))["number"] == 11


async def test_a_number_that_json_does_not_have_fails_the_result_and_names_its_place(
    rig: FalRig,
) -> None:
    failure = await rig.refusal("/events", lines='{"loss": [0.5, NaN]}')
    assert failure.message == (
        "The output has the number nan at loss.1, which JSON does not have. Return null or a text "
        "in its place."
    )
    said = (await rig.output("/mirror", text="[0.5, NaN]"))["said"]
    assert said == [0.5, None]  # as by fal: FastAPI writes what has a type with null in its place


async def test_an_event_with_a_number_that_json_does_not_have_is_left_out(rig: FalRig) -> None:
    key = rig.offer("/events", lines='{"loss": 1e400}\n{"loss": 0.5}')
    assert (await rig.rig.outcome(key)).output == {"loss": 0.5}
    values = [json.loads(partial.value) for partial in rig.rig.source.partials]
    assert values[-1:] == [{"loss": 0.5}]
    assert not [value for value in values if value.get("loss") == inf]
    assert any("A partial result was left out" in text for _, text in await rig.rig.lines(key))


@pytest.mark.long
@pytest.mark.parametrize(
    ("how", "code", "retryable", "words"),
    [
        ("field", "invalid_input", False, "how: This way is closed."),
        ("app", "invalid_input", False, "There is no face in the image."),
        ("", "pipeline_failed", False, "KeyError: 'lost' (camera_app.py, line "),
        ("exit", "pipeline_failed", False, "SystemExit: a library ends (camera_app.py, line "),
        ("die", "replica_died", True, "of camera_app:Camera ended with status 3."),
    ],
)
async def test_each_failure_says_what_happened(
    rig: FalRig, how: str, code: str, retryable: bool, words: str
) -> None:
    failure = await rig.refusal("/fail", how=how)
    assert (failure.code, failure.retryable) == (code, retryable)
    assert words in failure.message
    assert failure.type == ("closed" if how == "field" else failure.type)
    assert not [line for line in lines_of(rig) if "raceback" in line]


async def test_what_a_request_prints_for_the_replica_s_log_is_not_in_the_error_of_another(
    rig: FalRig,
) -> None:
    await rig.refusal("/fail")
    failure = await rig.refusal("/fail", how="die")
    assert failure.message == "The process of camera_app:Camera ended with status 3."


@pytest.mark.long
@pytest.mark.parametrize("how", ["gpu", "cuda"])
async def test_after_an_error_of_the_gpu_another_process_tries_again(rig: FalRig, how: str) -> None:
    before = await rig.output("/about")
    failure = await rig.refusal("/fail", how=how)
    assert (failure.code, failure.retryable) == ("pipeline_failed", True)
    assert "out of memory" in failure.message if how == "cuda" else "GPU error" in failure.message
    outcome = await rig.call("/about")
    while outcome.failure is not None:  # it was given to the process that was ending
        assert outcome.failure.retryable
        outcome = await rig.call("/about")
    assert (outcome.output or {})["pid"] != before["pid"]


LEAVING = """
import time
import fal
from fal.exceptions import GPUException

class Leaving(fal.App):
    max_multiplexing = 2

    def teardown(self):
        time.sleep(600)

    @fal.endpoint("/")
    async def go(self, fail: bool = False) -> str:
        if fail:
            raise GPUException(message="The GPU has fallen off the bus.")
        return "done"
"""


@pytest.mark.long
def test_a_request_of_a_process_that_leaves_hears_of_the_gpu_and_of_no_kill(
    environments: Path, tmp_path: Path
) -> None:
    path = tmp_path / "leaving.py"
    path.write_text(LEAVING)
    app = deploy_app(path, tmp_path, environments)
    endpoint = app.endpoints["/"]

    async def last(executor: AppExecutor, name: str, **arguments: bool) -> Any:
        work = ExecutorWork(name, endpoint, arguments, tmp_path / name)
        return [event async for event in executor.run(work)][-1]

    async def serve() -> None:
        async with (
            serving(app, tmp_path / "replica") as rig,
            rig.rig.host.use(endpoint, (), lambda _: None) as executor,
        ):
            with pytest.raises(PipelineFailed, match="fallen off the bus"):
                await last(executor, "first", fail=True)
            with pytest.raises(ReplicaDied) as raised:
                await last(executor, "second")
        assert raised.value.message == (
            "The process of leaving:Leaving ended after an error of its GPU in another request."
        )

    asyncio.run(serve())


async def test_an_input_is_checked_before_it_is_queued(rig: FalRig) -> None:
    with pytest.raises(InvalidInput, match="less than or equal to 64"):
        rig.offer("/", size=65)


async def test_a_file_of_an_earlier_request_is_refused_with_a_sentence(rig: FalRig) -> None:
    assert (await rig.call("/fail", how="stale")).failure is None
    failure = await rig.refusal("/fail", how="stale")
    assert "The output names a file of an earlier request" in failure.message


def until_ended(number: int) -> None:
    while Path(f"/proc/{number}").exists():
        time.sleep(0.05)


async def run_and_cancel(rig: FalRig, path: str) -> None:
    printed = len([line for line in lines_of(rig) if line == "waiting"])
    key = rig.offer(path)
    await rig.rig.port.until(
        lambda: len([line for line in lines_of(rig) if line == "waiting"]) > printed
    )
    rig.rig.port.cancelled.add(key)
    async with asyncio.timeout(240):
        failure = (await rig.rig.outcome(key)).failure
    assert failure is not None
    assert failure.code == "cancelled"


@pytest.mark.long
@pytest.mark.parametrize("path", ["/wait", "/sleep", "/yields-async"])
async def test_a_cancelled_request_of_an_async_route_ends_and_its_process_stays(
    rig: FalRig, path: str
) -> None:
    before = await rig.output("/about")
    await run_and_cancel(rig, path)
    assert (await rig.output("/about"))["pid"] == before["pid"]


@pytest.mark.long
async def test_a_cancelled_request_that_goes_on_takes_its_process_with_it(rig: FalRig) -> None:
    before = await rig.output("/about")
    await run_and_cancel(rig, "/hang")
    async with asyncio.timeout(240):
        await asyncio.to_thread(until_ended, before["pid"])
    assert (await rig.output("/about"))["pid"] != before["pid"]


COMPUTED = """
from __future__ import annotations
import fal
from fal.toolkit import Image
from pydantic import VERSION, BaseModel

OLD = "pydantic>=1.8,<2"

class Answer(BaseModel):
    version: str
    image: Image

class Old(fal.App):
    requirements = [[OLD], ["--no-deps", "einops"]]

    @fal.endpoint("/")
    def go(self, prompt: str = "") -> Answer:
        return Answer(version=VERSION, image=Image.from_bytes(b"x", "png"))
"""


@pytest.mark.long
def test_computed_requirements_in_layers_and_an_old_pydantic(
    environments: Path, tmp_path: Path
) -> None:
    path = tmp_path / "old.py"
    path.write_text(COMPUTED)
    app = deploy_app(path, tmp_path, environments)
    assert app.found["requirements"] == [["pydantic>=1.8,<2"], ["--no-deps", "einops"]]

    async def serve() -> None:
        async with serving(app, tmp_path / "replica") as rig:
            output = await rig.output("/")
        assert output["version"].startswith("1.")
        assert output["image"]["content_type"] == "image/png"

    asyncio.run(serve())


SICK = """
import asyncio, fal
class Sick(fal.App):
    @fal.endpoint("/")
    def go(self) -> str:
        return ""
    @fal.endpoint("/up", health_check=fal.HealthCheck(start_period_seconds=0, failure_threshold=2))
    def up(self):
        raise RuntimeError("out of order")
"""

CHECKED = """
import asyncio
from darkroom.fal.package import HostedApp, load
from darkroom.fal.worker import health_checks
async def main():
    app = HostedApp(load("sick:Sick"))
    app.startup_timeout_s = 0
    async with app.lifespan():
        await health_checks(app, 0.01)
asyncio.run(main())
"""


@pytest.mark.long
def test_an_app_that_fails_its_health_check_ends_its_process(
    environments: Path, tmp_path: Path
) -> None:
    (tmp_path / "sick.py").write_text(SICK)
    python = asyncio.run(Environments(environments).python((), for_fal=True))
    ended = subprocess.run(
        [python, "-c", CHECKED], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 70, ended.stderr
    assert "The health check /up failed: status 500, 2 times" in ended.stderr


@pytest.mark.long
async def test_an_app_that_ends_is_asked_to_exit_and_torn_down(
    camera: DeployedApp, tmp_path: Path
) -> None:
    async with serving(camera, tmp_path / "replica") as rig:
        await rig.output("/about")
    ended = tmp_path / "replica" / "data" / "ended.txt"
    assert await asyncio.to_thread(ended.read_text) == "handle_exit\nteardown\n"
