"""Replica that reads the files of a request with a replica's own code, and then answers."""

from __future__ import annotations

import asyncio
import queue
import tempfile
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from PIL import Image, ImageChops

from deployments.engine.threads import Threads
from deployments.executors.base import PATH_KEY
from deployments.executors.comfyui.workflow import FILES_FIELD, ComfyUiWorkflow, job
from deployments.executors.files import RequestFiles
from deployments.families.base import GenerationCall
from deployments.families.image_io import requested_size
from deployments.replica.files import InputFiles
from deployments.transfer.fetcher import Fetcher, fetcher_client
from serve_app.domain.endpoint import Endpoint
from serve_app.domain.errors import DarkroomError
from serve_app.domain.lease import Lease, Report
from serve_app.domain.media.images import read_alpha, read_colours, read_header, read_image
from serve_app.domain.name_resolution import NameResolver
from serve_app.domain.outcome import Failure, Outcome
from tests.ingress.house import House
from tests.ingress.replica import REPLICA, ScriptedReplica

LOADER = "1"  # id of the node of a graph that loads the image


@dataclass(frozen=True)
class Reading:
    """What a model gets of a request."""

    image: Image.Image
    mask: Image.Image | None = None
    size: tuple[int, int] | None = None  # of the output; None: the request does not say it
    notes: tuple[str, ...] = ()  # of the request's log


Readings = queue.SimpleQueue[Reading | Exception]


class _KeepingFamily:
    """Keeps what it is to prepare."""

    def prepare(
        self, endpoint: Endpoint, input: Mapping[str, Any], _pipeline: Any, _seed: int
    ) -> GenerationCall:
        size = requested_size(endpoint, input)
        return GenerationCall(input, {"size": (size.width, size.height)})


class ReadingReplica(ScriptedReplica):
    """Puts what it reads into ``readings``."""

    def __init__(self, house: House, fetcher: Fetcher, readings: Readings) -> None:
        super().__init__(house.queue, house.storage)
        self._fetcher = fetcher
        self._resources: Any = SimpleNamespace(fetcher=fetcher, encoders=Threads(1))
        self._readings = readings

    async def aclose(self) -> None:
        await super().aclose()
        self._resources.encoders.shutdown()

    async def _output(self, lease: Lease) -> Outcome:
        read = self._by_executor if lease.endpoint.family == "comfyui" else self._by_family
        await self._queue.report(Report(REPLICA, (lease.key,)))
        try:
            self._readings.put(await read(lease))
        except (DarkroomError, OSError) as error:
            self._readings.put(error)
            return Outcome(failure=Failure("invalid_input", str(error), retryable=False))
        return await super()._output(lease)

    async def _by_family(self, lease: Lease) -> Reading:
        files = InputFiles(lease, self._resources)
        await files.fetch(_ignore)
        family = cast("Any", _KeepingFamily())
        call = await files.prepare(family, None, lease.input, 0)
        arguments = call.arguments
        return Reading(
            arguments["image_url"],
            arguments.get("mask_url"),
            call.output_facts["size"],
            tuple(files.notes),
        )

    async def _by_executor(self, lease: Lease) -> Reading:
        """As ComfyUI's nodes are given a file: by its name in the graph that is sent there."""
        with tempfile.TemporaryDirectory() as folder:
            nowhere = cast("Any", None)
            files = RequestFiles(lease, Path(folder, "files"), self._fetcher, nowhere, nowhere)
            fields = dict(await files.fetch(_ignore))
            paths = cast("Mapping[str, Mapping[str, str]]", fields[FILES_FIELD])
            fields[FILES_FIELD] = {name: file[PATH_KEY] for name, file in paths.items()}
            graph = job(ComfyUiWorkflow.of(lease.endpoint), fields, "attempt").graph
            loaded = Path(graph[LOADER]["inputs"]["image"])
            content = await asyncio.to_thread(loaded.read_bytes)
        if not read_header(content, "image").has_alpha:
            return Reading(read_image(content, "image"))
        alpha = read_alpha(content, "image")
        assert alpha is not None
        # What is transparent is the mask that the node makes.
        return Reading(read_colours(content, "image"), ImageChops.invert(alpha))


def _ignore(_: object) -> None:
    """Progress, which nobody follows."""


@asynccontextmanager
async def reading(house: House, readings: Readings) -> AsyncGenerator[None]:
    fetcher = Fetcher(
        fetcher_client(), NameResolver(), max_bytes=10**7, timeout_s=60.0, allow_private=False
    )
    replica = ReadingReplica(house, fetcher, readings)
    await replica.start()
    try:
        yield
    finally:
        await replica.aclose()
        await fetcher.aclose()
