"""Workflows on a replica, at a ComfyUI process: its protocol, files, failures and death.

With ``DARKROOM_TEST_COMFYUI=FOLDER:PYTHON:COMMIT`` the same tests run against a real ComfyUI, which
needs the node ``TestSteps`` in the package ``test_steps`` of custom nodes, at that commit.
"""

from __future__ import annotations

import asyncio
import io
import os
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest
from PIL import Image

from deployments.executors.base import PATH_KEY, ExecutorWork, PreviewPicture
from deployments.executors.comfyui.executor import ComfyUiExecutor
from deployments.executors.comfyui.interface import Interface, any_graph, interface
from deployments.executors.comfyui.server import LocalComfyUi, node_classes
from deployments.replica.config import ReplicaConfig
from serve_app.domain.endpoint import Endpoint, Weights
from serve_app.domain.executors.comfyui import ComfyUiConfig, known_nodes
from serve_app.domain.lease import LeaseKey, Signal, SignalKind
from serve_app.domain.outcome import Outcome
from tests.cluster.processes import command_of
from tests.deployments.executors.rig import ExecutorRig

INVERT = {
    "1": {"class_type": "LoadImage", "inputs": {"image": "example.png"}},
    "2": {"class_type": "ImageInvert", "inputs": {"image": ["1", 0]}},
    "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "mine"}},
}
STEPS = {
    "1": {
        "class_type": "TestSteps",
        "inputs": {"steps": 4, "seed": 7, "text": "a cat", "then": "end", "until": ""},
    },
    "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "mine"}},
}
EMPTY = {"width": 8, "height": 8, "batch_size": 1, "color": 0}
STEPS_INPUTS = {name: f"1.{name}" for name in ("steps", "seed", "text", "then", "until")}


def comfyui_config() -> ComfyUiConfig:
    """The ComfyUI that these tests run."""
    # Named by a person who wants a real one to be tested.
    if real := os.environ.get("DARKROOM_TEST_COMFYUI"):  # noqa: TID251
        path, python, commit = real.split(":")
        return ComfyUiConfig(Path(path), Path(python), nodes={"test_steps": commit})
    return ComfyUiConfig(Path(__file__).parent / "server", Path(sys.executable))


@pytest.fixture(scope="module")
def classes() -> Mapping[str, Any]:
    return asyncio.run(node_classes(comfyui_config(), None))


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[ExecutorRig]:
    rig = ExecutorRig(tmp_path, config=ReplicaConfig(executors={"comfyui": comfyui_config()}))
    await rig.replica.start()
    yield rig
    await rig.replica.aclose()


def endpoint(workflow_interface: Interface) -> Endpoint:
    options = {
        "comfyui": workflow_interface.workflow.model_dump(mode="json"),
        "input_schema": workflow_interface.input_schema,
        "output_schema": workflow_interface.output_schema,
    }
    return Endpoint("team/workflow", "comfyui", Weights(""), "json", options=options)


def offer(rig: ExecutorRig, name: str, workflow_interface: Interface, **arguments: Any) -> LeaseKey:
    lease = rig.lease(name, lease_endpoint=endpoint(workflow_interface), **arguments)
    rig.port.offer(lease)
    return lease.key


def steps(classes: Mapping[str, Any]) -> Interface:
    return interface(STEPS, classes, STEPS_INPUTS, ())


async def failure(rig: ExecutorRig, lease_key: LeaseKey) -> tuple[str, str]:
    outcome = await rig.outcome(lease_key)
    assert outcome.failure is not None
    return outcome.failure.code, outcome.failure.message


def picture(rig: ExecutorRig, outcome: Outcome) -> Image.Image:
    (image,) = (outcome.output or {})["images"]
    return Image.open(io.BytesIO(rig.storage.objects[image["artifact"]]))


def png(color: str) -> bytes:
    written = io.BytesIO()
    Image.new("RGB", (8, 8), color).save(written, "PNG")
    return written.getvalue()


async def test_a_workflow_gets_its_files_and_its_result_is_stored(
    rig: ExecutorRig, classes: Mapping[str, Any]
) -> None:
    rig.storage.objects["u/mine.png"] = png("white")
    workflow = interface(INVERT, classes, {}, ())
    outcome = await rig.outcome(
        offer(rig, "one", workflow, image_url="http://anywhere/files/u/mine.png")
    )
    assert outcome.failure is None
    (image,) = (outcome.output or {})["images"]
    assert (image["width"], image["height"], image["content_type"]) == (8, 8, "image/png")
    with picture(rig, outcome) as drawn:
        assert drawn.convert("RGB").getpixel((0, 0)) == (0, 0, 0)
    left = [path for path in (rig.scratch / "homes").rglob("*") if "one-" in str(path)]
    assert left == []  # no other request can ever read them


async def test_progress_and_nodes_are_shown(
    rig: ExecutorRig, classes: Mapping[str, Any], tmp_path: Path
) -> None:
    go = tmp_path / "go"
    key = offer(rig, "one", steps(classes), until=str(go))
    await rig.running(key)
    go.touch()
    outcome = await rig.outcome(key)
    assert outcome.output is not None
    assert outcome.output["seeds"].keys() == {"seed"}
    reports = [report for _, report in rig.port.reports]
    shown = [progress for report in reports for of, progress in report.progress if of == key]
    assert {(progress.step, progress.steps) for progress in shown} >= {(1, 4)}
    assert any("Node 1 (TestSteps)" in text for _, text in await rig.lines(key))


async def test_each_step_has_a_preview(classes: Mapping[str, Any], tmp_path: Path) -> None:
    server = LocalComfyUi(comfyui_config(), tmp_path / "home", None, gpu=False)
    executor = ComfyUiExecutor(server)
    await executor.start(lambda _: None)
    try:
        work = ExecutorWork("one", endpoint(steps(classes)), {"seed": 255}, tmp_path / "one-1")
        events = [event async for event in executor.run(work)]
    finally:
        await executor.aclose(5.0)
    previews = [event for event in events if isinstance(event, PreviewPicture)]
    assert [preview.step for preview in previews] == [1, 2, 3, 4]
    with Image.open(io.BytesIO(previews[0].picture)) as shown:
        assert shown.format == "JPEG"


async def test_the_same_request_twice_has_two_files(
    rig: ExecutorRig, classes: Mapping[str, Any]
) -> None:
    """Although ComfyUI keeps the results of nodes with equal inputs."""
    workflow = steps(classes)
    first = await rig.outcome(offer(rig, "one", workflow, seed=255))
    second = await rig.outcome(offer(rig, "two", workflow, seed=255))
    with picture(rig, first) as one, picture(rig, second) as two:
        assert one.tobytes() == two.tobytes()
    keys = {(outcome.output or {})["images"][0]["artifact"] for outcome in (first, second)}
    assert len(keys) == 2


async def test_a_seed_that_is_not_given_is_drawn_and_told(
    rig: ExecutorRig, classes: Mapping[str, Any]
) -> None:
    outcomes = [await rig.outcome(offer(rig, name, steps(classes))) for name in ("one", "two")]
    first, second = ((outcome.output or {})["seeds"]["seed"] for outcome in outcomes)
    assert first != second


async def test_a_node_that_fails_is_named(rig: ExecutorRig, classes: Mapping[str, Any]) -> None:
    code, message = await failure(rig, offer(rig, "one", steps(classes), then="fail"))
    assert code == "pipeline_failed"
    assert message == "Node 1 (TestSteps) failed: the brush is broken (ValueError)"


async def test_memory_that_is_missing_is_a_reason_to_try_elsewhere(
    rig: ExecutorRig, classes: Mapping[str, Any]
) -> None:
    code, message = await failure(rig, offer(rig, "one", steps(classes), then="out of memory"))
    assert code == "out_of_memory"
    assert "Node 1 (TestSteps)" in message


async def test_a_value_that_comfyui_refuses_is_named(
    rig: ExecutorRig, classes: Mapping[str, Any]
) -> None:
    code, message = await failure(rig, offer(rig, "one", steps(classes), steps=-1))
    assert code == "invalid_input"
    assert message.startswith("steps: ")


@pytest.mark.long
async def test_comfyui_dies_and_the_request_can_be_tried_again(
    rig: ExecutorRig, classes: Mapping[str, Any]
) -> None:
    code, message = await failure(rig, offer(rig, "one", steps(classes), then="die"))
    assert (code, "ComfyUI ended with status 3" in message) == ("replica_died", True), message
    again = await rig.outcome(offer(rig, "two", steps(classes)))
    assert again.failure is None


async def test_comfyui_is_killed_while_it_computes(
    rig: ExecutorRig, classes: Mapping[str, Any], tmp_path: Path
) -> None:
    key = offer(rig, "one", steps(classes), until=str(tmp_path / "never"))
    await rig.running(key)
    for process in psutil.Process().children(recursive=True):
        command = command_of(process)
        if "main.py" in command and "guard.py" not in command:
            process.send_signal(signal.SIGKILL)
    code, _ = await failure(rig, key)
    assert code == "replica_died"


async def test_a_cancelled_request_ends_and_comfyui_stays(
    rig: ExecutorRig, classes: Mapping[str, Any], tmp_path: Path
) -> None:
    key = offer(rig, "one", steps(classes), until=str(tmp_path / "never"))
    await rig.running(key)
    before = comfyui_processes()
    rig.port.signal(Signal(SignalKind.CANCEL, key))
    code, _ = await failure(rig, key)
    assert code == "cancelled"
    assert (await rig.outcome(offer(rig, "two", steps(classes)))).failure is None
    assert comfyui_processes() == before


async def test_files_of_a_request_that_ends_while_they_are_uploaded_do_not_stay(
    tmp_path: Path,
) -> None:
    server = LocalComfyUi(comfyui_config(), tmp_path / "home", None, gpu=False)
    executor = ComfyUiExecutor(server)
    await executor.start(lambda _: None)
    (tmp_path / "first.png").write_bytes(png("white"))
    files = {"a.png": "first.png", "b.png": "gone.png"}
    arguments = {
        "prompt": INVERT,
        "files": {name: {PATH_KEY: str(tmp_path / path)} for name, path in files.items()},
    }
    work = ExecutorWork("one", endpoint(any_graph()), arguments, tmp_path / "one-1")
    try:
        with pytest.raises(FileNotFoundError):
            _ = [event async for event in executor.run(work)]
        assert [path for path in (tmp_path / "home").rglob("*") if "one-1" in str(path)] == []
    finally:
        await executor.aclose(1.0)


async def test_requests_run_one_after_the_other(
    rig: ExecutorRig, classes: Mapping[str, Any]
) -> None:
    keys = [offer(rig, name, steps(classes), seed=number) for number, name in enumerate("abc")]
    outcomes = [await rig.outcome(key) for key in keys]
    assert [outcome.failure for outcome in outcomes] == [None] * 3
    assert [(outcome.output or {})["seeds"]["seed"] for outcome in outcomes] == [0, 1, 2]
    assert len(comfyui_processes()) == 1


async def test_any_workflow_runs_where_the_endpoint_takes_one(rig: ExecutorRig) -> None:
    graph = {
        "1": {
            "class_type": "EmptyImage",
            "inputs": {"width": 8, "height": 8, "batch_size": 2, "color": 255},
        },
        "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
    }
    outcome = await rig.outcome(offer(rig, "one", any_graph(), prompt=graph))
    assert len((outcome.output or {})["images"]) == 2
    graph["2"]["class_type"] = "Unknown"
    code, message = await failure(rig, offer(rig, "two", any_graph(), prompt=graph))
    assert code == "invalid_input"
    assert message.startswith("prompt: ")
    assert "Unknown" in message


async def test_a_request_with_its_own_graph_has_files_and_says_of_which_node_its_results_are(
    rig: ExecutorRig,
) -> None:
    rig.storage.objects["u/mine.png"] = png("white")
    graph = {**INVERT, "1": {"class_type": "LoadImage", "inputs": {"image": "u/mine.png"}}}
    files = {"u/mine.png": "http://anywhere/files/u/mine.png"}
    extra = {"extra_pnginfo": {"workflow": {}}}
    outcome = await rig.outcome(
        offer(rig, "one", any_graph(), prompt=graph, files=files, extra_data=extra)
    )
    assert outcome.failure is None
    (image,) = (outcome.output or {})["images"]
    assert (image["node"], image["listed_as"]) == ("3", "images")
    with picture(rig, outcome) as drawn:
        assert drawn.convert("RGB").getpixel((0, 0)) == (0, 0, 0)


async def test_images_that_a_node_only_shows_are_results(rig: ExecutorRig) -> None:
    """As in ComfyUI's example with the node SaveImageWebsocket."""
    image = {"width": 8, "height": 8, "batch_size": 2, "color": 255}
    graph = {
        "1": {"class_type": "EmptyImage", "inputs": image},
        "9": {"class_type": "SaveImageWebsocket", "inputs": {"images": ["1", 0]}},
    }
    outcome = await rig.outcome(offer(rig, "one", any_graph(), prompt=graph))
    assert outcome.failure is None
    images = (outcome.output or {})["images"]
    assert [(entry["node"], entry["content_type"], entry["width"]) for entry in images] == [
        ("9", "image/png", 8)
    ] * 2
    with Image.open(io.BytesIO(rig.storage.objects[images[0]["artifact"]])) as shown:
        assert shown.convert("RGB").getpixel((0, 0)) == (0, 0, 255)


async def test_a_replica_describes_its_nodes_and_models_before_any_request(
    rig: ExecutorRig,
) -> None:
    rig.host.begin(rig.comfyui)
    known = known_nodes(await rig.source.comfyui.get())
    assert known.classes["SaveImage"].saves
    assert set(known.classes["SaveImage"].required) == {"images", "filename_prefix"}
    assert "checkpoints" in known.models
    assert known.version
    menu = known.describe("LoadImage")["LoadImage"]["input"]["required"]["image"]
    assert menu[0] == [], "names of files that others have uploaded are nobody's business"
    before = comfyui_processes()
    assert len(before) == 1
    graph = {**INVERT, "1": {"class_type": "EmptyImage", "inputs": EMPTY}}
    graph["2"] = {"class_type": "ImageInvert", "inputs": {"image": ["1", 0]}}
    outcome = await rig.outcome(offer(rig, "one", any_graph(), prompt=graph))
    assert outcome.failure is None
    assert comfyui_processes() == before, "the request uses the same process"
    assert rig.source.comfyui.empty(), "they are described again only after minutes"


async def test_new_models_are_described_after_a_request(
    rig: ExecutorRig, classes: Mapping[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deployments.executors.comfyui.executor.DESCRIBE_EVERY_S", -1e9)
    first = offer(rig, "one", steps(classes))
    await rig.outcome(first)
    before = known_nodes(await rig.source.comfyui.get())
    await rig.outcome(offer(rig, "two", steps(classes)))
    assert known_nodes(await rig.source.comfyui.get()).models == before.models


async def test_a_comfyui_that_cannot_start_early_is_tried_again_by_a_request(
    tmp_path: Path, classes: Mapping[str, Any]
) -> None:
    folder = tmp_path / "ComfyUI"
    config = ReplicaConfig(executors={"comfyui": ComfyUiConfig(folder, Path(sys.executable))})
    rig = ExecutorRig(tmp_path, config=config)
    await rig.replica.start()
    try:
        rig.host.begin(rig.comfyui)
        code, message = await failure(rig, offer(rig, "one", steps(classes)))
        assert (code, "There is no ComfyUI at" in message) == ("app_not_started", True)
        shutil.copytree(Path(__file__).parent / "server", folder)
        outcome = await rig.outcome(offer(rig, "two", steps(classes)))
        assert outcome.failure is None
    finally:
        await rig.replica.aclose()


async def test_without_the_setting_a_request_says_what_is_missing(
    tmp_path: Path, classes: Mapping[str, Any]
) -> None:
    rig = ExecutorRig(tmp_path)
    await rig.replica.start()
    try:
        code, message = await failure(rig, offer(rig, "one", steps(classes)))
    finally:
        await rig.replica.aclose()
    assert code == "app_not_started"
    assert "setting `comfyui`" in message


def comfyui_processes() -> set[int]:
    children = psutil.Process().children(recursive=True)
    return {child.pid for child in children if "guard.py" in command_of(child)}
