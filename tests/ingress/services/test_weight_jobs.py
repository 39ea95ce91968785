"""Jobs that fetch and check registered weights, with programs in place of the checking one."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from serve_app.catalog.catalog import Catalog
from serve_app.domain.audit.acts import Actor
from serve_app.domain.errors import DarkroomError, StorageFull, StorageUnavailable, TooLarge
from serve_app.ingress.services import weight_jobs
from serve_app.ingress.services.weight_jobs import WeightJobs
from serve_app.jobs.jobs import Job
from serve_app.jobs.worker import JobWorker
from serve_app.registry.records import (
    CheckedWeights,
    NewWeights,
    TenantWeights,
    WeightQuota,
    WeightState,
)
from serve_app.settings import Config
from serve_app.telemetry.clock import SystemClock
from tests.fakes.storage import FakeStorage
from tests.fakes.weight_book import FakeWeightBook
from tests.ingress.house import CATALOG, ORIGIN

ME = Actor("key-1", "192.0.2.1")
BASE = "fal-ai/flux/schnell"
KEY = "u/abc/style.safetensors"
CONTENT = b"weights"
GOOD = """
import json, sys, pathlib
job = json.loads(sys.stdin.readline())
print(json.dumps({"state": "fetching", "done": 3, "total": 7}), flush=True)
name, = job["files"].values()
size = (pathlib.Path(job["folder"]) / name).stat().st_size
file = {"path": "lora.safetensors", "file": name, "size": size, "digest": "d" * 64}
print(json.dumps({"result": {"kind": "lora", "files": [file], "facts": {"token": job["token"]}}}))
"""
REFUSES = 'print(\'{"refused": "It is a pickle."}\')'
DIES = "import os; os._exit(9)"
DRIPS_FOR_HOUSE = f"""
import json, sys, time
line = sys.stdin.readline()
if json.loads(line)["token"] == "hf_tenants":
    print(json.dumps({{"state": "fetching", "done": 1}}), flush=True)
    time.sleep(600)
import io; sys.stdin = io.StringIO(line)
{GOOD}"""
CHECKS_ALONE = """
import json, os, pathlib, sys, time
place = pathlib.Path(json.loads(sys.stdin.readline())["folder"]).parent / "checked"
print(json.dumps({"state": "checking", "done": 1}), flush=True)
sys.stdin.readline()
try:
    place.mkdir()
except FileExistsError:
    print(json.dumps({"refused": "Two at once."}))
else:
    time.sleep(0.3)
    place.rmdir()
    print(json.dumps({"refused": "It was alone."}))
"""
HANGS = 'import time; print(\'{"state": "checking", "done": 1}\', flush=True); time.sleep(600)'


class Bench:
    """Jobs over fakes, in a directory of the test."""

    def __init__(self, path: Path, **settings: Any) -> None:
        clock = SystemClock()
        self.path = path
        self.config = Config(gpus=0, data_dir=path, **settings)
        self.book = FakeWeightBook(clock)
        self.storage = FakeStorage(b"k" * 32, ORIGIN, clock)
        self.token: str | None = "hf_tenants"
        self.put_in_force = 0
        self.catalog = CATALOG

    async def upload_weights(self) -> None:
        async def chunks() -> AsyncIterator[bytes]:
            yield CONTENT

        await self.storage.put(KEY, "application/vnd.safetensors", chunks())

    async def run(self, program: str) -> TenantWeights:
        """Register weights and run their job with ``program`` as the checking process."""
        new = NewWeights("house", "style", BASE, {"upload": KEY})
        await self.book.add(new, WeightQuota(10**9, 5), ME)
        await self.run_due(program)
        weights = await self.book.find("house", "style")
        assert weights is not None
        return weights

    async def run_due(self, program: str) -> None:
        await JobWorker(self.book.jobs, [self.jobs(program)]).run_due()

    def jobs(self, program: str) -> WeightJobs:
        async def token_of(tenant: str) -> str | None:
            return self.token if tenant == "house" else f"hf_{tenant}"

        async def accepted() -> None:
            self.put_in_force += 1

        command = (sys.executable, "-c", program)
        arguments = self.book, self.storage, self.catalog, lambda: self.config, token_of, accepted
        return WeightJobs(*arguments, command=lambda: command)

    async def add(self, tenant: str, *names: str, kind: str = "") -> None:
        for name in names:
            new = NewWeights(tenant, name, BASE, {"upload": KEY}, kind=kind)
            assert await self.book.add(new, WeightQuota(10**9, 5), ME) == ""

    async def states(self, tenant: str) -> list[WeightState]:
        return [weights.state for weights in await self.book.page(tenant, 100)]

    def leftover_files(self) -> list[Path]:
        return [path for path in (self.path / "weights-arriving").rglob("*") if path.is_file()]


@pytest.fixture
async def bench(tmp_path: Path) -> Bench:
    bench = Bench(tmp_path)
    await bench.upload_weights()
    return bench


async def test_checked_weights_are_stored_and_ready(bench: Bench) -> None:
    ready = await bench.run(GOOD)
    assert (ready.state, ready.kind, ready.size) == (WeightState.READY, "lora", len(CONTENT))
    key = await bench.book.key_of("d" * 64)
    assert key is not None
    assert key.startswith("w/")
    assert await bench.storage.size(key) == len(CONTENT)
    assert ready.facts == {"token": "hf_tenants"}
    assert bench.put_in_force == 1
    assert bench.leftover_files() == []


async def test_refused_weights_say_why_and_leave_nothing(bench: Bench) -> None:
    refused = await bench.run(REFUSES)
    assert (refused.state, refused.problem) == (WeightState.REFUSED, "It is a pickle.")
    assert bench.leftover_files() == []


async def test_a_process_that_dies_is_not_the_end_of_the_job(bench: Bench) -> None:
    job = await bench.run(DIES)
    assert job.state is WeightState.FETCHING  # until another process takes it
    assert bench.leftover_files() == []


async def test_weights_whose_check_dies_three_times_are_refused(bench: Bench) -> None:
    await bench.run(DIES)
    for _ in range(2):
        for row in bench.book.jobs.rows.values():
            row.due_at = row.created_at
        await bench.run_due(DIES)
    (refused,) = await bench.book.page("house", 5)
    assert refused.state is WeightState.REFUSED
    assert "Three processes" in refused.problem


async def test_files_of_a_killed_process_go_with_the_next_job_and_those_in_use_stay(
    bench: Bench,
) -> None:
    arriving = bench.path / "weights-arriving"
    for name in ("killed", "in-use"):
        (arriving / name).mkdir(parents=True)
        (arriving / name / "0").write_bytes(CONTENT)
    other = os.open(arriving / "in-use", os.O_RDONLY)
    fcntl.flock(other, fcntl.LOCK_EX)
    await bench.run(GOOD)
    assert bench.leftover_files() == [arriving / "in-use" / "0"]
    os.close(other)
    await bench.jobs(GOOD).remove_abandoned()
    assert bench.leftover_files() == []


async def test_the_folder_of_a_job_under_way_is_no_abandoned_one(bench: Bench) -> None:
    looks = """
import fcntl, json, os, sys
folder = os.open(json.loads(sys.stdin.readline())["folder"], os.O_RDONLY)
try:
    fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    print(json.dumps({"refused": "It is locked."}))
"""
    assert (await bench.run(looks)).problem == "It is locked."


async def test_a_check_that_hangs_is_ended(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weight_jobs, "CHECK_S", 0.2)
    refused = await bench.run(HANGS)
    assert refused.state is WeightState.REFUSED
    assert "longer than" in refused.problem


async def test_removed_weights_end_the_process(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weight_jobs, "REPORT_EVERY_S", 0.05)
    new = NewWeights("house", "style", BASE, {"upload": KEY})
    await bench.book.add(new, WeightQuota(10**9, 5), ME)
    report = bench.book.report

    async def report_and_remove(job: Job, state: WeightState, done: int) -> TenantWeights | None:
        weights = await report(job, state, done)
        await bench.book.remove("house", "style", ME)
        return weights

    monkeypatch.setattr(bench.book, "report", report_and_remove)
    await bench.run_due(HANGS)
    assert bench.leftover_files() == []


async def test_a_file_that_was_deleted_meanwhile_is_named(bench: Bench) -> None:
    await bench.storage.delete([KEY])
    refused = await bench.run(GOOD)
    assert refused.state is WeightState.REFUSED
    assert "Upload it again" in refused.problem


async def test_a_base_that_is_gone_is_named(bench: Bench) -> None:
    bench.catalog = Catalog({})
    refused = await bench.run(GOOD)
    assert f"{BASE} is not in the catalogue" in refused.problem


async def test_files_above_the_quota_are_refused(tmp_path: Path) -> None:
    bench = Bench(tmp_path, max_weights_bytes_per_tenant=len(CONTENT) - 1)
    await bench.upload_weights()
    refused = await bench.run(GOOD)
    assert refused.state is WeightState.REFUSED
    assert "DELETE /v1/weights/{name}" in refused.problem
    assert bench.leftover_files() == []


class Refusing(FakeStorage):
    """Storage that refuses as many files as there are errors, and then takes them."""

    refusals: list[DarkroomError]

    async def put(self, key: str, media_type: str, chunks: AsyncIterator[bytes]) -> int:
        if self.refusals:
            raise self.refusals.pop()
        return await super().put(key, media_type, chunks)


def refusing(bench: Bench, *errors: DarkroomError) -> None:
    storage = Refusing(b"k" * 32, ORIGIN, SystemClock())
    storage.objects, storage.refusals = bench.storage.objects, [*errors]
    bench.storage = storage


@pytest.mark.parametrize("error", [StorageUnavailable("It is away."), StorageFull("It is full.")])
async def test_a_job_waits_for_storage_however_often_it_is_tried(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, error: DarkroomError
) -> None:
    refusing(bench, error)
    assert (await bench.run(GOOD)).state is WeightState.WAITING
    assert bench.leftover_files() == []
    monkeypatch.setattr(weight_jobs, "STORAGE_AGAIN_S", 0.0)
    refusing(bench, *[error] * 4)
    await bench.book.remove("house", "style", ME)
    assert (await bench.run(GOOD)).state is WeightState.READY


async def test_what_storage_says_of_a_file_that_it_does_not_take_is_the_reason(
    bench: Bench,
) -> None:
    refusing(bench, TooLarge("The artifact is larger than the bucket allows."))
    refused = await bench.run(GOOD)
    assert refused.state is WeightState.REFUSED
    assert refused.problem == "The artifact is larger than the bucket allows."
    assert bench.leftover_files() == []


async def test_the_job_has_no_secret_in_its_arguments(bench: Bench) -> None:
    program = (
        "import json, sys; t = json.loads(sys.stdin.readline())['token']; "
        "print(json.dumps({'refused': "
    )
    refused = await bench.run(program + "str(t in ' '.join(sys.argv))}))")
    assert refused.problem == json.dumps(False).capitalize()


async def test_the_checking_process_gets_no_secret_of_the_ingress(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("DARKROOM_DATABASE_URL", "AWS_SECRET_ACCESS_KEY", "DARKROOM_S3_BUCKET"):
        monkeypatch.setenv(name, "secret")
    monkeypatch.setenv("HF_HOME", "/models")
    program = (
        "import json, os, sys; json.loads(sys.stdin.readline()); print(json.dumps({'refused': "
    )
    refused = await bench.run(program + "json.dumps(dict(os.environ))}))")
    environment = json.loads(refused.problem)
    assert environment["HF_HOME"] == "/models"
    assert "secret" not in environment.values()
    assert not [name for name in environment if name.startswith(("DARKROOM", "AWS"))]


@pytest.mark.long
async def test_a_check_that_takes_too_much_memory_is_refused(bench: Bench) -> None:
    greedy = (
        "from deployments.checking import worker\n"
        "worker.MEMORY_BYTES = 2**28\n"
        "worker.run = lambda job, reports: {'size': len(bytearray(2**30))}\n"
        "worker.main()\n"
    )
    refused = await bench.run(greedy)
    assert refused.state is WeightState.REFUSED
    assert "of memory" in refused.problem


async def test_a_tenant_whose_servers_drip_does_not_stop_the_weights_of_others(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    await bench.add("house", *(f"style-{number}" for number in range(5)))
    await bench.add("other", "style")
    accept, accepted = bench.book.accept, asyncio.Event()

    async def accept_and_say(job: Job, checked: CheckedWeights) -> bool:
        done = await accept(job, checked)
        accepted.set()
        return done

    monkeypatch.setattr(bench.book, "accept", accept_and_say)
    jobs = JobWorker(bench.book.jobs, [bench.jobs(DRIPS_FOR_HOUSE)])
    jobs.start()
    await asyncio.wait_for(accepted.wait(), 60.0)
    assert await bench.states("other") == [WeightState.READY]
    assert (await bench.states("house")).count(WeightState.FETCHING) == 1
    await jobs.aclose()


async def test_weights_are_fetched_together_and_checked_one_after_another(bench: Bench) -> None:
    for tenant in ("house", "other", "third"):
        await bench.add(tenant, "style")
    await bench.run_due(CHECKS_ALONE)
    for tenant in ("house", "other", "third"):
        weights = await bench.book.find(tenant, "style")
        assert weights is not None
        assert weights.problem == "It was alone."


async def test_what_is_said_to_be_a_lora_is_fetched_no_further_than_a_lora_may_be_large(
    tmp_path: Path,
) -> None:
    bench = Bench(tmp_path, max_adapter_bytes=1000)
    await bench.upload_weights()
    await bench.add("house", "style", kind="lora")
    await bench.run_due(
        "import json, sys; limits = json.loads(sys.stdin.readline())['limits']; "
        "print(json.dumps({'refused': str(limits['max_bytes'])}))"
    )
    weights = await bench.book.find("house", "style")
    assert weights is not None
    assert weights.problem == "1000"
