"""What was made outlasts an ingress, a database and a storage that are away for a while."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from httpx2 import AsyncClient

from deployments.executors.attempt import ExecutorAttempt
from deployments.executors.base import (
    PATH_KEY,
    AppExecutor,
    Event,
    ExecutorWork,
    MadeFile,
    MadeOutput,
)
from deployments.executors.files import RequestFiles
from deployments.replica.attempt_state import StopReason
from deployments.transfer.uploader import Backoff, Uploader
from serve_app.domain.artifact import UploadTicket
from serve_app.domain.endpoint import Endpoint, Weights
from serve_app.domain.errors import DatabaseUnavailable
from serve_app.domain.executors.secrets import Secret
from serve_app.domain.lease import LeaseKey, Signal, SignalKind
from serve_app.domain.ports import Clock
from serve_app.domain.progress import Progress
from tests.deployments.executors import rig as rigs
from tests.deployments.executors.rig import ExecutorRig, FakeAppSource, endpoint
from tests.fakes.image_checkers import rule

DEAD = "ActorDiedError: The actor of an ingress on ip-10-0-0-7 died."


@dataclass
class AwaySource(FakeAppSource):
    """Ingress that is away for the calls of ``outages``: it raises what is there, in turn.
    None: it does not answer."""

    away: dict[str, list[Exception | None]] = field(default_factory=dict)

    async def _answer(self, name: str) -> None:
        if problems := self.away.get(name):
            if (problem := problems.pop(0)) is None:
                await asyncio.Event().wait()
            else:
                raise problem

    async def file_ticket(
        self, lease_key: LeaseKey, tenant: str, number: int, media_type: str
    ) -> UploadTicket:
        await self._answer("file_ticket")
        return await super().file_ticket(lease_key, tenant, number, media_type)

    async def app_bundle(self, digest: str) -> bytes:
        await self._answer("app_bundle")
        return await super().app_bundle(digest)

    async def secrets(self, lease_key: LeaseKey, tenant: str) -> tuple[Secret, ...]:
        await self._answer("secrets")
        return await super().secrets(lease_key, tenant)

    async def report_decisions(
        self, lease_key: LeaseKey, decisions: tuple[Mapping[str, Any], ...]
    ) -> None:
        await self._answer("report_decisions")
        await super().report_decisions(lease_key, decisions)


class Painter:
    """Executor in this process: each request makes one file. Implements ``AppExecutor``."""

    alive = True
    concurrency = 8

    def __init__(self) -> None:
        self.runs = 0

    async def start(self, on_progress: Callable[[Progress], None]) -> None:
        del on_progress

    async def run(self, work: ExecutorWork) -> AsyncIterator[Event]:
        self.runs += 1
        await asyncio.to_thread(work.folder.mkdir, parents=True, exist_ok=True)
        path = work.folder / "image.png"
        await asyncio.to_thread(path.write_bytes, b"an image")
        yield MadeOutput({"image": MadeFile({PATH_KEY: str(path), "media_type": "image/png"})})

    async def cancel(self, request_id: str, grace_s: float) -> bool:
        del request_id, grace_s
        return True

    async def aclose(self, grace_s: float) -> None:
        del grace_s


class PainterRig(ExecutorRig):
    """Replica whose hosted providers are a ``Painter``, so that no process is started."""

    def __init__(self, folder: Path) -> None:
        self.painter = Painter()
        super().__init__(folder, source=AwaySource)

    def _hosted(self) -> AppExecutor:
        return self.painter

    @property
    def outages(self) -> dict[str, list[Exception | None]]:
        assert isinstance(self.source, AwaySource)
        return self.source.away

    def paint(self, family: str = "fal", **more: Any) -> LeaseKey:
        """Offer a request: of a provider that keeps its results, or of ``openai``."""
        hosted = {"hosted": {"endpoint": "paint", "url": "http://provider"}}
        painted = Endpoint(f"hosted/{family}", family, Weights(""), "json", options=hosted)
        return self.offer("one", lease_endpoint=painted, **more)


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[PainterRig]:
    painter = PainterRig(tmp_path)
    await painter.replica.start()
    yield painter
    await painter.replica.aclose()


@pytest.mark.parametrize("call", ["app_bundle", "secrets", "file_ticket", "report_decisions"])
async def test_a_request_of_an_app_outlasts_an_ingress_that_restarts(
    rig: PainterRig, call: str
) -> None:
    rig.outages[call] = [ConnectionError(DEAD), DatabaseUnavailable("PostgreSQL restarts.")]
    rig.source.kept = [Secret("HF_TOKEN", "", "hf_one")]
    painted = endpoint("/paint", secrets=["HF_TOKEN"])
    key = rig.offer("one", lease_endpoint=painted, color="red", lease_safety=(rule("flag"),))
    outcome = await rig.outcome(key)
    assert outcome.failure is None, outcome.failure
    assert rig.outages[call] == []
    assert {artifact.key for artifact in outcome.artifacts} <= rig.storage.objects.keys()


async def test_a_call_that_an_ingress_does_not_answer_is_repeated(rig: PainterRig) -> None:
    rig.outages["file_ticket"] = [None]
    outcome = await rig.outcome(rig.paint())
    assert outcome.failure is None, outcome.failure
    assert rig.painter.runs == 1


async def test_with_the_ingress_away_for_long_the_lease_is_handed_back_without_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rigs, "CALLS", replace(rigs.CALLS, finish_give_up_s=0.5))
    rig = PainterRig(tmp_path)
    rig.outages["file_ticket"] = [ConnectionError(DEAD)] * 100
    await rig.replica.start()
    try:
        key = rig.paint()
        async with asyncio.timeout(60):
            await rig.port.until(lambda: rig.port.hand_backs or rig.port.finishes)
        ((handed_back, _, reason),) = rig.port.hand_backs
        assert handed_back == key
        assert "did not answer" in reason
        assert "ip-10-0-0-7" not in reason
        assert rig.port.finishes == []
    finally:
        await rig.replica.aclose()


@pytest.mark.parametrize("how", ["stop", "abandon"])
async def test_a_stop_while_an_attempt_clears_up_does_not_take_its_outcome_away(
    rig: PainterRig, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    clearing, cleared = asyncio.Event(), asyncio.Event()
    remove, stop = RequestFiles.remove, getattr(ExecutorAttempt, how)

    async def slowly(files: RequestFiles) -> None:
        clearing.set()
        await cleared.wait()
        await remove(files)

    def stopped(attempt: ExecutorAttempt, *why: StopReason) -> None:
        stop(attempt, *why)
        cleared.set()

    monkeypatch.setattr(RequestFiles, "remove", slowly)
    monkeypatch.setattr(ExecutorAttempt, how, stopped)
    key = rig.paint()
    await clearing.wait()
    if how == "stop":
        rig.port.signal(Signal(SignalKind.CANCEL, key))
    else:
        await rig.replica.aclose()
    async with asyncio.timeout(60):
        outcome = await rig.outcome(key)
    assert outcome.failure is None, outcome.failure
    assert rig.port.hand_backs == []
    assert {artifact.key for artifact in outcome.artifacts} <= rig.storage.objects.keys()


async def test_paid_images_wait_for_a_storage_that_is_away_for_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def impatient(client: AsyncClient, clock: Clock, backoff: Backoff, *_: object) -> Uploader:
        return Uploader(client, clock, backoff, give_up_s=0.3)

    monkeypatch.setattr(rigs, "Uploader", impatient)
    rig = PainterRig(tmp_path)
    rig.storage.problems.extend([503] * 5)
    await rig.replica.start()
    try:
        key = rig.paint("openai")
        async with asyncio.timeout(60):
            await rig.port.until(lambda: rig.port.hand_backs or rig.port.finishes)
        assert rig.port.hand_backs == []
        outcome = await rig.outcome(key)
        assert outcome.failure is None, outcome.failure
        assert [rig.storage.objects[artifact.key] for artifact in outcome.artifacts] == [
            b"an image"
        ]
        assert rig.painter.runs == 1
    finally:
        await rig.replica.aclose()


async def test_paid_images_that_are_being_stored_are_not_abandoned_when_the_replica_closes(
    rig: PainterRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.storage.closed = closed = asyncio.Event()
    abandon = ExecutorAttempt.abandon

    def abandoned(attempt: ExecutorAttempt) -> None:
        abandon(attempt)
        closed.set()

    monkeypatch.setattr(ExecutorAttempt, "abandon", abandoned)
    key = rig.paint("openai")
    await rig.port.until(lambda: rig.storage.requests)
    await rig.replica.aclose()
    assert closed.is_set()
    assert rig.port.hand_backs == []
    assert (await rig.outcome(key)).failure is None
