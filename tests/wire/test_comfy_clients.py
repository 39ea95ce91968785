"""ComfyUI's own packages for Python and JavaScript, which speak Comfy API v2."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from comfy_sdk import (
    Comfy,
    IdempotencyKeyReuse,
    InvalidWorkflow,
    JobFailed,
    Log,
    MissingAsset,
    NotFound,
    OutputReady,
    Preview,
    Progress,
    StatusChange,
    Unauthorized,
    WorkflowFormatUi,
)

from tests.ingress.comfyui.comfy import CATALOG, GRAPH, GraphReplica, node
from tests.ingress.house import House
from tests.ingress.replica import JPEG
from tests.wire.served import Address, serve
from tests.wire.test_other_clients import javascript

pytestmark = pytest.mark.wire

HOLD = {"1": node("Hold"), "2": node("SaveImage", filename_prefix="x")}


class Graphs:
    """Replica beside the server, on its event loop."""

    replica: GraphReplica
    loop: asyncio.AbstractEventLoop

    @asynccontextmanager
    async def beside(self, house: House) -> AsyncGenerator[None]:
        self.loop = asyncio.get_running_loop()
        self.replica = GraphReplica(house.queue, house.storage)
        await self.replica.start()
        yield
        await self.replica.aclose()

    def release(self) -> None:
        """Let the graphs with ``Hold`` go on."""
        self.loop.call_soon_threadsafe(self.replica.release.set)

    def given(self) -> Any:
        """Input of the newest request that has run."""
        return self.replica.given[-1]


@pytest.fixture
def graphs() -> Graphs:
    return Graphs()


@pytest.fixture
def address(graphs: Graphs) -> Iterator[Address]:
    with serve(graphs.beside, catalog=CATALOG, replica=False) as address:
        yield address


@pytest.fixture
def comfy(address: Address, monkeypatch: pytest.MonkeyPatch) -> Iterator[Comfy]:
    monkeypatch.setenv("COMFY_BASE_URL", f"{address.url}/comfyui")
    with Comfy(api_key=address.key) as client:
        yield client


def test_a_workflow_runs_and_its_outputs_are_read(comfy: Comfy) -> None:
    job = comfy.run(comfy.workflows.from_json(dict(GRAPH)))
    (output,) = job.get_outputs("2")
    assert (output.name, output.type, output.content_type) == (
        "2_00001_.png",
        "image",
        "image/png",
    )
    assert output.to_bytes() == b"image of 2"
    address = output.get_download_url()
    assert httpx.get(address.url, trust_env=False).content == b"image of 2"
    assert job.get_workflow().graph == GRAPH
    assert comfy.jobs.get(job.id).status == "succeeded"


def test_texts_are_outputs_too(comfy: Comfy) -> None:
    job = comfy.run(comfy.workflows.from_json({"4": node("ShowText", text="größer")}))
    (output,) = job.get_outputs("4")
    assert (output.type, output.to_bytes().decode()) == ("text", "größer")


def test_events_say_where_a_job_is_to_its_end(comfy: Comfy, graphs: Graphs) -> None:
    job = comfy.submit(comfy.workflows.from_json(HOLD))
    heard = []
    for event in job.events():
        heard.append(event)
        if isinstance(event, Preview):
            graphs.release()
    previews = [event for event in heard if isinstance(event, Preview)]
    assert {(preview.node_id, preview.data) for preview in previews} >= {("1", JPEG)}
    steps = [event for event in heard if isinstance(event, Progress)]
    assert (steps[-1].value, steps[-1].nodes_done, steps[-1].nodes_total) == (1.0, 2, 2)
    assert {"1"} <= {step.current_node for step in steps}
    assert [step.value for step in steps] == sorted(step.value for step in steps)
    assert not any("Node 1" in event.message for event in heard if isinstance(event, Log))
    ready, last = heard[-2:]
    assert isinstance(ready, OutputReady)
    assert ready.output.to_bytes() == b"image of 2"
    assert last == StatusChange("succeeded")


def test_a_running_job_is_cancelled(comfy: Comfy) -> None:
    job = comfy.submit(comfy.workflows.from_json(HOLD))
    while job.refresh().status == "queued":
        pass
    assert job.cancel().status in ("canceling", "canceled")
    assert job.wait(60).status == "canceled"
    assert job.cancel().status == "canceled", "again, as often as one likes"


def test_a_failed_job_names_its_node(comfy: Comfy) -> None:
    with pytest.raises(JobFailed) as raised:
        comfy.run(comfy.workflows.from_json({"7": node("Fail")}))
    error = raised.value.error
    assert (error.node_id, error.class_type) == ("7", "Fail")
    assert "Node 7 (Fail) failed" in error.message


def test_jobs_are_listed_by_their_labels(comfy: Comfy) -> None:
    for shot in ("1", "2"):
        comfy.submit(comfy.workflows.from_json(dict(GRAPH)), metadata={"film": "x", "shot": shot})
    newest, oldest = comfy.list_jobs(metadata={"film": "x"}, limit=1)
    assert [newest.metadata["shot"], oldest.metadata["shot"]] == ["2", "1"]
    assert list(comfy.list_jobs(metadata={"shot": "1"})) == [oldest]
    assert newest.create_time >= oldest.create_time
    assert comfy.jobs.get(newest.id).metadata == {"film": "x", "shot": "2"}


def test_files_are_uploaded_and_read_by_nodes(comfy: Comfy, graphs: Graphs) -> None:
    flow = comfy.workflows.from_json({"1": node("LoadImage"), "2": node("SaveImage")})
    asset = comfy.assets.from_bytes(b"a picture", filename="größe 日本.png")
    flow.set_input("1", "image", asset)
    made = comfy.run(flow).get_outputs("2")[0]
    given = graphs.given()
    name = given["prompt"]["1"]["inputs"]["image"]
    assert httpx.get(given["files"][name], trust_env=False).content == b"a picture"
    assert asset.created_new
    assert httpx.get(asset.get_download_url().url, trust_env=False).content == b"a picture"
    asset.delete()
    flow.set_input("1", "image", {"__type": "core/ASSET", "info": {"id": "upload-eA"}})
    with pytest.raises(MissingAsset, match="not there"):
        comfy.submit(flow)
    flow.set_input("1", "image", {"__type": "core/ASSET", "info": {"id": made.id}})
    comfy.run(flow)
    (url,) = graphs.given()["files"].values()
    assert httpx.get(url, trust_env=False).content == b"image of 2", "an output is an asset, too"


def test_the_same_key_runs_a_workflow_once(comfy: Comfy, graphs: Graphs) -> None:
    flow = comfy.workflows.from_json(dict(GRAPH))
    first = comfy.submit(flow, idempotency_key="k").wait(60)
    assert comfy.submit(flow, idempotency_key="k").id == first.id
    assert len(graphs.replica.ran) == 1
    with pytest.raises(IdempotencyKeyReuse):
        comfy.submit(comfy.workflows.from_json(HOLD), idempotency_key="k")


def test_what_is_wrong_has_its_own_exception(
    comfy: Comfy, address: Address, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InvalidWorkflow, match="class_type") as raised:
        comfy.submit(comfy.workflows.from_json({"1": {"inputs": {}}}))
    assert raised.value.details["node_errors"]["1"][0]["field"] == "class_type"
    monkeypatch.setattr("comfy_sdk.client._guard_ui_format", lambda _: None)
    with pytest.raises(WorkflowFormatUi, match="Export"):
        comfy.submit(comfy.workflows.from_json({"nodes": [], "links": [], "last_node_id": 1}))
    with pytest.raises(NotFound, match="no such job"):
        comfy.jobs.get("0197a3f0-0000-7000-8000-000000000000")
    with pytest.raises(NotFound, match="no such upload"):
        comfy.assets.delete("upload-eA")
    with pytest.raises(Unauthorized), Comfy(api_key="no") as stranger:
        stranger.jobs.get("x")
    with Comfy(api_key=address.other_key) as other:
        job = comfy.run(comfy.workflows.from_json(dict(GRAPH)))
        with pytest.raises(NotFound):
            other.jobs.get(job.id)
        with pytest.raises(NotFound):
            other.assets.delete(job.outputs[0].id)
        assert list(other.list_jobs()) == []


def test_the_package_for_javascript_does_the_same(address: Address, graphs: Graphs) -> None:
    graphs.release()
    seen = javascript("comfy.mjs", address)
    assert seen["output"] == {"name": "2_00001_.png", "content": "image of 2"}
    assert seen["last"] == "succeeded"
    assert {"statusChange", "progress", "outputReady"} <= set(seen["events"])
    assert seen["uploaded"] == "a picture"
    assert seen["missing"] == "NotFound"
