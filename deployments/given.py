"""The files that an input names: fetched, and read while the call of it is prepared."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from deployments.family import Family, GenerationCall
from deployments.task import GivenKind, given_files
from deployments.workshop import Workshop
from serve_app.domain.endpoint import Endpoint
from serve_app.domain.lease import Lease
from serve_app.domain.progress import Progress, Stage

_Bodies = Mapping[str, tuple[GivenKind, bytes]]


class GivenFiles:
    """Of one attempt. Use on one event loop."""

    def __init__(self, lease: Lease, workshop: Workshop) -> None:
        self._lease = lease
        self._workshop = workshop
        self._bodies: _Bodies = {}

    async def fetch(self, on_progress: Callable[[Progress], None]) -> None:
        """All that the input names. ``InvalidInput`` names the field of one that cannot be had."""
        lease, bodies = self._lease, dict[str, tuple[GivenKind, bytes]]()
        for field, kind in given_files(lease.endpoint, lease.input).items():
            on_progress(Progress(Stage.FETCHING))
            url = str(lease.input[field])
            body = await self._workshop.fetcher.fetch(url, field, lease.files_url)
            bodies[field] = (kind, body)
        self._bodies = bodies

    async def prepare(
        self, family: Family, pipeline: Any, input: Mapping[str, Any], seed: int
    ) -> GenerationCall:
        """The call for ``input``, with what was read of the files in place of their URLs."""
        endpoint = self._lease.endpoint
        if not self._bodies:
            return family.prepare(endpoint, input, pipeline, seed)
        work = partial(_prepared, family, endpoint, input, pipeline, seed, self._bodies)
        return await asyncio.get_running_loop().run_in_executor(self._workshop.encoders, work)


def _prepared(
    family: Family,
    endpoint: Endpoint,
    input: Mapping[str, Any],
    pipeline: Any,
    seed: int,
    bodies: _Bodies,
) -> GenerationCall:
    from deployments.engine.given_reading import READERS  # noqa: PLC0415

    read = {field: READERS[kind](body, field) for field, (kind, body) in bodies.items()}
    return family.prepare(endpoint, {**input, **read}, pipeline, seed)
