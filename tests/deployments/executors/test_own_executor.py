"""An executor is one folder: nothing else names it, and it is served as the others are."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from deployments import executors
from deployments.executors.registry import EXECUTORS, find_kinds
from serve_app.app import checked_config, hosted_families
from serve_app.cli.apps.deployable import deployable
from serve_app.domain.endpoint import Endpoint, Weights
from serve_app.domain.executors.deployable import Choices
from serve_app.domain.lease import Signal, SignalKind
from serve_app.domain.realtime import session_kind
from tests.deployments.executors.rig import FILE, ExecutorRig

KIND = '''
"""Executor that writes a text in capital letters to a file, in its own process."""

import asyncio

from deployments.executors.base import LoggedLine, MadeFile, MadeOutput
from deployments.executors.kind import AppPlan, ExecutorKind
from serve_app.domain.executors.deployable import Deployable
from serve_app.domain.errors import InvalidInput
from serve_app.domain.progress import Progress, Stage


class Shouter:
    alive = False
    concurrency = 2

    async def start(self, on_progress):
        self.alive = True

    async def run(self, work):
        text = work.input["text"]
        if not text:
            raise InvalidInput.of_field("text", "Input should not be empty")
        yield LoggedLine("INFO", f"shouting {text}")
        yield Progress(Stage.RUNNING, 1, 1)
        while text == "for ever":
            await asyncio.sleep(0.01)
        work.folder.mkdir(parents=True, exist_ok=True)
        path = work.folder / "shout.txt"
        path.write_text(text.upper())
        yield MadeOutput({"file": MadeFile({"$file": str(path), "media_type": "text/plain"})})

    async def cancel(self, request_id, grace_s):
        return True

    async def aclose(self, grace_s):
        self.alive = False


def plan(context, endpoint, secrets):
    return AppPlan("shout", lambda home: Shouter())


def deploy(choices, context):
    path = choices.path
    if path is None or path.suffix != ".shout":
        return None
    choices.refuse("a shout", "--pool")
    options = {"input_schema": {"type": "object"}, "output_schema": {"type": "object"}}
    entry = {"family": "shout", "schema": "json", "description": "", "options": options}
    return Deployable([choices.entry(choices.base_id(path.stem), entry)])


KIND = ExecutorKind(("shout",), plan, deploy)
'''

ENDPOINT = Endpoint(
    "own/shout",
    "shout",
    Weights(""),
    "json",
    options={
        "input_schema": {"type": "object", "properties": {"image_url": FILE}},
        "output_schema": {"type": "object"},
    },
)


@pytest.fixture
def shouting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A folder ``shout`` beside those of the other executors."""
    folder = tmp_path / "executors" / "shout"
    folder.mkdir(parents=True)
    (folder / "__init__.py").touch()
    (folder / "kind.py").write_text(KIND)
    path = [*executors.__path__, str(folder.parent)]
    monkeypatch.setattr(executors, "__path__", path)
    kinds = {family: kind for kind in find_kinds() for family in kind.families}
    assert kinds.keys() - EXECUTORS.keys() == {"shout"}
    monkeypatch.setitem(EXECUTORS, "shout", kinds["shout"])
    yield
    for name in [name for name in sys.modules if name.startswith("deployments.executors.shout")]:
        del sys.modules[name]


@pytest.mark.usefixtures("shouting")
async def test_a_folder_is_an_executor_whose_requests_run_as_all_do(tmp_path: Path) -> None:
    rig = ExecutorRig(tmp_path)
    await rig.replica.start()
    try:
        key = rig.offer("one", lease_endpoint=ENDPOINT, text="hello")
        outcome = await rig.outcome(key)
        assert outcome.failure is None
        assert [rig.storage.objects[artifact.key] for artifact in outcome.artifacts] == [b"HELLO"]
        assert ("INFO", "shouting hello") in await rig.lines(key)
        wrong = await rig.outcome(rig.offer("two", lease_endpoint=ENDPOINT, text=""))
        assert wrong.failure is not None
        assert (wrong.failure.code, wrong.failure.field) == ("invalid_input", "text")
        late = rig.offer("three", lease_endpoint=ENDPOINT, text="for ever")
        await rig.running(late)
        rig.port.signal(Signal(SignalKind.CANCEL, late))
        stopped = await rig.outcome(late)
        assert stopped.failure is not None
        assert stopped.failure.code == "cancelled"
    finally:
        async with asyncio.timeout(60):
            await rig.replica.aclose()


@pytest.mark.usefixtures("shouting")
def test_pools_host_it_as_they_host_the_others() -> None:
    config = checked_config({})
    assert "shout" in hosted_families(config)
    pools = config.models.pools or {}
    assert "shout" in pools["apps"].families
    assert session_kind(ENDPOINT) == "none"


@pytest.mark.usefixtures("shouting")
def test_what_it_knows_is_deployed_by_the_same_command(tmp_path: Path) -> None:
    file = tmp_path / "loud.shout"
    file.touch()
    deployment = deployable(Choices(file, pool="apps"), checked_config({}))
    assert deployment is not None
    ((id_, entry),) = deployment.entries
    assert (id_, entry["pool"], entry["category"]) == ("apps/loud", "apps", "text-to-text")
    with pytest.raises(click.UsageError, match="--app cannot be used for a shout"):
        deployable(Choices(file, class_name="App"), checked_config({}))
