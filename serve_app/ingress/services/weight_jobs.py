"""Jobs that fetch, check and store the weights that tenants register.

The files are read by processes of their own, ``deployments.checking.worker``. A job whose process
dies begins again a minute later.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from serve_app.catalog.catalog import Catalog
from serve_app.catalog.private import LORA, identity_of
from serve_app.domain.endpoint import Weights
from serve_app.domain.errors import ArtifactNotFound, DarkroomError, StorageUnavailable
from serve_app.domain.held_folder import HeldFolder, remove_abandoned
from serve_app.domain.ports import Storage
from serve_app.jobs.jobs import Job, JobHandler, Retry
from serve_app.periodic_task import PeriodicTask
from serve_app.registry.records import (
    WEIGHTS,
    CheckedWeights,
    StoredWeightFile,
    TenantWeights,
    WeightBook,
    WeightState,
)
from serve_app.settings import NO_LIMITS, Config
from serve_app.settings.child_environment import checking_environment
from serve_app.storage.blocking import run_blocking
from serve_app.storage.keys import SAFETENSORS, weights_key

log = logging.getLogger(__name__)

WORKER = "deployments.checking.worker"
COLLECT_EVERY_S = 600.0
REPORT_EVERY_S = 2.0
STORAGE_AGAIN_S = 600.0
"""When a job is taken again that storage could not serve: it fetches its files anew."""
CHECK_S = 1800.0
"""Longest check. Values of 100 GB are read in less."""
CHUNK_BYTES = 4 * 2**20
LINE_BYTES = 2**20

TRIED_TOO_OFTEN = (
    "Three processes ended while they checked these weights: the file may need more memory than "
    "the server has. Ask the operator to look at the log."
)
GONE = "The uploaded file was deleted before it could be read. Upload it again."
NO_BASE = "Its base {base} is not in the catalogue any more. Register the weights for another one."
NOT_COMPARED = frozenset({"files", "folder", "parts", "pipeline"})
NO_WEIGHTS = "Its base {base} has no weights of its own, so nothing can be compared with them."
QUOTA = (
    "Your weights may take {most} bytes (DARKROOM_MAX_WEIGHTS_BYTES_PER_TENANT, or "
    "max_weights_bytes of the tenant), and these {size} bytes exceed that. Delete some: "
    "DELETE /v1/weights/{{name}}."
)
TOO_LONG = "The check took longer than {limit:g} s and was ended. Ask the operator."

TokenOf = Callable[[str], Awaitable[str | None]]
"""Token of the hub that a tenant's files are fetched with; empty: none. None: the operator's."""
Command = Callable[[], tuple[str, ...]]


class Refused(Exception):
    """The weights are refused, with the reason."""


class _Lost(Exception):
    """The process of the check ended without a result. The job is tried again."""


@dataclass(slots=True)
class _Progress:
    state: WeightState = WeightState.FETCHING
    done: int = 0


def max_weights_bytes(config: Config, tenant: str) -> int:
    """Bytes that a tenant's weights may take."""
    own = config.queue.tenant_limits.get(tenant, NO_LIMITS).max_weights_bytes
    return own or config.limits.max_weights_bytes_per_tenant


def worker_command() -> tuple[str, ...]:
    """Command of the checking process."""
    return sys.executable, "-m", WORKER


class WeightJobs(JobHandler):
    """Handler of the jobs in one ingress process."""

    kind = WEIGHTS

    def __init__(
        self,
        book: WeightBook,
        storage: Storage,
        catalog: Catalog,
        config: Callable[[], Config],
        token_of: TokenOf,
        accepted: Callable[[], Awaitable[None]],
        command: Command = worker_command,
    ) -> None:
        """``config``: the settings in force. ``accepted``: puts the private endpoint of weights in
        force. ``command``: of the checking process."""
        self._book = book
        self._storage = storage
        self._catalog = catalog
        self._config = config
        self._token_of = token_of
        self._accepted = accepted
        self._command = command
        self._turn = asyncio.Lock()  # to check: it takes gigabytes of memory
        collecting = {"weight_files": book.collect, "weight_folders": self.remove_abandoned}
        self._collecting = PeriodicTask(COLLECT_EVERY_S, collecting)

    def start(self) -> None:
        """Start to delete what jobs leave."""
        self._collecting.start()

    async def aclose(self) -> None:
        await self._collecting.aclose()

    async def run(self, jobs: Sequence[Job]) -> Sequence[Retry]:
        """Work on a job while it is this process's."""
        (job,) = jobs
        weights = await self._book.report(job, WeightState.FETCHING, 0)
        if weights is None:
            return ()  # they were ready or refused when the process before ended
        await self.remove_abandoned()
        folder = await run_blocking(HeldFolder, self._arriving)
        progress = _Progress()
        working = asyncio.create_task(self._work(job, weights, folder.path, progress))
        try:
            while not working.done():
                await asyncio.wait({working}, timeout=REPORT_EVERY_S)
                if working.done():
                    break
                if await self._book.report(job, progress.state, progress.done) is None:
                    log.info("The weights %s were removed.", job.key)
                    return ()
            await working
        except Refused as refused:
            await self._book.refuse(job, str(refused))
        except StorageUnavailable as away:
            await self._book.report(job, WeightState.WAITING, 0)
            return [Retry(jobs, STORAGE_AGAIN_S, away.message, counts=False)]
        except _Lost as lost:
            return [Retry(jobs, error=f"The check ended early: {lost}.")]
        finally:
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)
            await run_blocking(folder.remove)
        return ()

    async def given_up(self, job: Job) -> None:
        await self._book.refuse(job, TRIED_TOO_OFTEN)

    async def remove_abandoned(self) -> None:
        """Delete the files of jobs whose process was killed."""
        await run_blocking(remove_abandoned, self._arriving)

    @property
    def _arriving(self) -> Path:
        return self._config().server.data_dir / "weights-arriving"

    async def _work(
        self, job: Job, weights: TenantWeights, folder: Path, progress: _Progress
    ) -> None:
        entry = self._catalog.find(weights.base)
        if entry is None:
            raise Refused(NO_BASE.format(base=weights.base))
        if not entry.endpoint.weights.source:
            raise Refused(NO_WEIGHTS.format(base=weights.base))
        most = max_weights_bytes(self._config(), job.tenant)
        left = most - (await self._book.used_bytes(job.tenant) - weights.size)
        uploaded = await self._uploads(weights, folder, left)
        message = self._message(weights, folder, entry.endpoint.weights, left)
        message["files"] = uploaded
        message["token"] = await self._token_of(job.tenant)
        result = await self._run_check(message, progress)
        checked = CheckedWeights(
            str(result["kind"]),
            [
                StoredWeightFile(weight_file["path"], weight_file["digest"], weight_file["size"])
                for weight_file in result["files"]
            ],
            identity_of(entry.endpoint.weights),
            result["facts"],
        )
        if not await self._book.reserve(job, checked.size, most):
            raise Refused(QUOTA.format(most=most, size=checked.size))
        for file in result["files"]:
            await self._store(folder / file["file"], file["digest"], file["size"])
        await self._book.accept(job, checked)
        await self._accepted()

    def _message(
        self, weights: TenantWeights, folder: Path, base: Weights, left: int
    ) -> dict[str, Any]:
        config = self._config()
        if weights.kind == LORA:
            left = min(left, config.loras.max_adapter_bytes)
        store = config.weights.weights_dir
        return {
            "folder": str(folder),
            "store": "" if store is None else str(store),
            "base": {k: v for k, v in asdict(base).items() if k not in NOT_COMPARED},
            "source": dict(weights.source),
            "limits": {
                "max_bytes": max(0, left),
                "spare_bytes": config.limits.min_free_disk_bytes_for_uploads,
                "allow_private": config.limits.allow_private_urls,
                "min_bytes_per_s": config.limits.min_download_bytes_per_s,
                "offline": config.weights.offline,
            },
            "max_lora_bytes": config.loras.max_adapter_bytes,
            "kind": weights.kind,
        }

    async def _uploads(self, weights: TenantWeights, folder: Path, left: int) -> Mapping[str, str]:
        """Copy uploaded files into ``folder``; returns the names there, by path."""
        source = weights.source
        keys: Mapping[str, str] = source.get("files") or {}
        if "upload" in source:
            keys = {str(source["upload"]).rpartition("/")[2]: str(source["upload"])}
        names: dict[str, str] = {}
        for number, (path, key) in enumerate(keys.items()):
            try:
                size = await self._storage.size(key)
                left -= size
                if left < 0:
                    most = max_weights_bytes(self._config(), weights.tenant)
                    raise Refused(QUOTA.format(most=most, size=size))
                await _copy(self._storage.read(key, 0, size), folder / str(number))
            except ArtifactNotFound:
                raise Refused(GONE) from None
            names[path] = str(number)
        return names

    async def _run_check(
        self, message: Mapping[str, Any], progress: _Progress
    ) -> Mapping[str, Any]:
        """Result of the checking process. ``Refused`` or ``_Lost``."""
        process = await asyncio.create_subprocess_exec(
            *self._command(),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            limit=LINE_BYTES,
            env=checking_environment(),
        )
        async with AsyncExitStack() as turn:
            try:
                return await self._talk(process, message, progress, turn)
            finally:
                with suppress(ProcessLookupError):
                    process.kill()
                await process.wait()

    async def _talk(
        self,
        process: Any,
        message: Mapping[str, Any],
        progress: _Progress,
        turn: AsyncExitStack,
    ) -> Mapping[str, Any]:
        process.stdin.write(json.dumps(message).encode() + b"\n")
        while True:
            limit = CHECK_S if progress.state is WeightState.CHECKING else None
            try:
                line = await asyncio.wait_for(process.stdout.readline(), limit)
            except TimeoutError:
                raise Refused(TOO_LONG.format(limit=CHECK_S)) from None
            if not line:
                raise _Lost(f"status {await process.wait()}")
            answer = json.loads(line)
            if "refused" in answer:
                raise Refused(answer["refused"])
            if "result" in answer:
                return answer["result"]
            state, progress.done = WeightState(answer["state"]), answer["done"]
            if state is WeightState.CHECKING and progress.state is not state:
                await turn.enter_async_context(self._turn)
                process.stdin.write(b"\n")  # it waits for this line
            progress.state = state

    async def _store(self, file: Path, digest: str, size: int) -> None:
        """Store a file once. It is written again if it is there, so that a tenant cannot see by the
        time whether another one has it. ``StorageUnavailable``."""
        key = await self._book.adopt(digest, weights_key(), size)
        try:
            await self._storage.put(key, SAFETENSORS, _chunks(file))
        except StorageUnavailable:
            raise
        except DarkroomError as error:
            raise Refused(error.message) from error


async def _copy(chunks: AsyncIterator[bytes], into: Path) -> None:
    file = await run_blocking(into.open, "wb")
    try:
        async for chunk in chunks:
            await run_blocking(file.write, chunk)
    finally:
        await run_blocking(file.close)


async def _chunks(path: Path) -> AsyncIterator[bytes]:
    file = await run_blocking(path.open, "rb")
    try:
        while chunk := await run_blocking(file.read, CHUNK_BYTES):
            yield chunk
    finally:
        await run_blocking(file.close)
