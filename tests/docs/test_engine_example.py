"""The example of the engine as a library, and that of a family of one's own, run as they stand."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import AsyncIterator, Callable
from io import BytesIO
from pathlib import Path
from random import Random
from types import ModuleType
from typing import Any

import pytest
import yaml
from PIL import Image

from deployments.engine.engine import Engine
from deployments.engine.loading.residency import Residency
from deployments.engine.threads import Threads
from deployments.families.base import Family, load_families
from deployments.replica.config import IngressLink, ReplicaConfig, ReplicaIdentity
from deployments.replica.engine_replica import EngineReplica
from deployments.replica.resources import ReplicaResources
from deployments.transfer.fetcher import Fetcher
from deployments.transfer.lora_cache import LoraCache
from deployments.transfer.lora_fetcher import LoraFetcher
from deployments.transfer.uploader import Backoff, Uploader
from serve_app.catalog.catalog import Catalog, load
from serve_app.catalog.entries import EntryOrigin
from serve_app.domain.endpoint import StoreConfig
from serve_app.domain.lease import Lease, LeaseKey
from serve_app.domain.name_resolution import NameResolver
from serve_app.domain.outcome import Outcome
from serve_app.domain.request import Priority
from serve_app.telemetry.clock import SystemClock
from tests.deployments.storage import HttpStorage
from tests.docs.pages import DOCS, block
from tests.engine.tiny import tiny_sd3
from tests.fakes.lease_port import FakeLeasePort
from weights.repository_files import RepositoryFiles
from weights.store import Store

pytestmark = pytest.mark.engine

ENGINE = DOCS / "how-to" / "use-the-engine-as-a-library.md"
FAMILY = DOCS / "how-to" / "write-a-family.md"
CONFIG = ReplicaConfig(slots=1, threads=1, device="cpu", graceful_shutdown_timeout_s=8.0)


def test_the_engine_s_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(block(ENGINE, "python"), str(ENGINE), "exec"), {})  # noqa: S102 our own page
    output = capsys.readouterr().out
    assert "(1, 3, 32, 32)" in output
    assert "Stage.DENOISING" in output
    assert "The generation was cancelled." in output


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What the page exports; and its module can be imported."""
    text = block(FAMILY, "sh")
    variables = dict(re.findall(r"^export (\w+)='?(.*?)'?$", text, re.M))
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    source = block(FAMILY, "python")
    module = ModuleType(Path(source.splitlines()[0].removeprefix("# ")).stem)
    exec(compile(source, str(FAMILY), "exec"), vars(module))  # noqa: S102 our own page
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return variables


@pytest.fixture
def families(settings: dict[str, str]) -> dict[str, Family]:
    return load_families(json.loads(settings["DARKROOM_FAMILIES"]))


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    """The page's, with tiny weights in the place of the large ones."""
    source = yaml.safe_load(block(FAMILY, "yaml"))
    (endpoint,) = source["endpoints"].values()
    endpoint["weights"]["directory"] = str(tmp_path / "weights")
    tiny_sd3().save_pretrained(tmp_path / "weights", safe_serialization=True)
    path = tmp_path / "models.yaml"
    path.write_text(yaml.safe_dump(source))
    return load(path, demo=True, demo_dir=tmp_path)


class Running:
    """The page's family in a replica without Serve."""

    def __init__(self, families: dict[str, Family], catalog: Catalog) -> None:
        self.storage, self._port, clock = (
            HttpStorage(),
            FakeLeasePort(ask_wait_s=1.0),
            SystemClock(),
        )
        self._catalog = catalog
        backoff = Backoff(Random(1))  # noqa: S311
        engine = Engine(device="cpu", max_generations=1, threads=1)
        resources = ReplicaResources(
            engine=engine,
            residency=Residency(engine),
            uploader=Uploader(self.storage.client(), clock, backoff, 5.0),
            fetcher=Fetcher(
                self.storage.client(),
                NameResolver(),
                max_bytes=0,
                timeout_s=5.0,
                allow_private=False,
            ),
            snapshot_fetcher=Fetcher(
                self.storage.client(),
                NameResolver(),
                max_bytes=0,
                timeout_s=5.0,
                allow_private=False,
            ),
            loras=LoraFetcher(
                Fetcher(
                    self.storage.client(),
                    NameResolver(),
                    max_bytes=0,
                    timeout_s=5.0,
                    allow_private=False,
                ),
                RepositoryFiles(Store(StoreConfig())),
                LoraCache(Path("/nowhere"), 0, clock.now),
                clock,
                0,
            ),
            encoders=Threads(1),
            writers=Threads(1),
            clock=clock,
        )
        identity = ReplicaIdentity("replica-1", "ab" * 16, "studio")
        link = IngressLink(self._port, identity, CONFIG.calls, clock, backoff)
        self.replica = EngineReplica(
            link, families, lambda: resources, CONFIG, end_process=pytest.fail
        )

    async def run(self, name: str, body: dict[str, Any]) -> Outcome:
        (entry,) = (
            candidate for candidate in self._catalog if candidate.origin is EntryOrigin.FILE
        )
        checked = self._catalog.validate(entry.endpoint.id, body).input
        tickets = tuple(
            self.storage.ticket(f"{name}/{n}", media_type)
            for n, media_type in enumerate(entry.schema.media_types(checked))
        )
        self._port.offer(Lease(name, 1, 5.0, entry.endpoint, checked, tickets, Priority.NORMAL))
        key = LeaseKey(name, 1)
        await self._port.until(
            lambda: any(finish.lease_key == key for finish in self._port.finishes)
        )
        return next(finish.outcome for finish in self._port.finishes if finish.lease_key == key)


@pytest.fixture
async def running(families: dict[str, Family], catalog: Catalog) -> AsyncIterator[Running]:
    running = Running(families, catalog)
    await running.replica.start()
    yield running
    await running.replica.aclose()


@pytest.mark.long
async def test_the_family_s_example_makes_images_of_an_input(running: Running) -> None:
    wish = {"prompt": "a red circle", "width": 32, "height": 16, "num_inference_steps": 2}
    outcome = await running.run("two", {**wish, "num_images": 2, "seed": 7})
    assert outcome.failure is None
    assert outcome.output is not None
    assert outcome.output["seed"] == 7
    assert outcome.usage.steps == 2
    for number, image in enumerate(outcome.output["images"]):
        assert image["artifact"] == outcome.artifacts[number].key
        drawn = Image.open(BytesIO(running.storage.objects[image["artifact"]]))
        assert (drawn.format, drawn.size) == ("PNG", (32, 16))


async def test_the_family_s_example_names_the_field_that_is_wrong(running: Running) -> None:
    outcome = await running.run("none", {"prompt": 3})
    assert outcome.failure is not None
    assert outcome.failure.field == "prompt"


def test_an_application_with_the_family_s_example_builds(
    build: Callable[[dict[str, Any]], Any], settings: dict[str, str]
) -> None:
    assert settings.keys() == {"DARKROOM_FAMILIES", "DARKROOM_MODELS"}
    build({})
