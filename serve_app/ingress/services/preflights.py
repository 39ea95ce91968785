"""Pre-flight answers of an installation, for whoever asks its ingress."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from serve_app.catalog.entries import CatalogEntry, real_endpoint
from serve_app.catalog.preflight import preflight, summary_of
from serve_app.domain.endpoint import Endpoint
from serve_app.domain.ports import Clock
from serve_app.domain.preflight import Download, MachineFacts, Preflight

HUB_S = 5.0
"""Time for all calls to the hub whose answers one caller waits for."""

FRESH_S = 300.0
"""Age at which an answer about weights that are here is looked for again."""
WANTED_FRESH_S = 20.0
"""The same for weights that are not here: somebody may download them, or mend the access."""

MOST_SEEN = 1000
"""Endpoints whose answers are kept."""

Look = Callable[[Sequence[Endpoint]], Mapping[str, Download]]
LookAtMachine = Callable[[], MachineFacts]


class Preflights:
    """Answers for entries of the catalogue. What the hub says is kept for minutes.

    ``look``, ``machine`` and ``nodes`` block. ``nodes``: number of this installation's; with more
    than one, the disk and the memory of this process's node are not those of the replicas.
    """

    def __init__(
        self, look: Look, machine: LookAtMachine, nodes: Callable[[], int], clock: Clock
    ) -> None:
        self._look = look
        self._machine = machine
        self._nodes = nodes
        self._clock = clock
        self._lock = asyncio.Lock()
        self._seen: dict[str, tuple[Endpoint, float, Download]] = {}
        self._seen_machine: tuple[float, MachineFacts] | None = None

    async def of(
        self,
        entries: Sequence[CatalogEntry],
        devices: Mapping[str, int],
        usual_s: Callable[[CatalogEntry], float | None],
        *,
        looks: bool,
    ) -> Sequence[Preflight]:
        """Answers, in the order of ``entries``. ``devices``: memory of the GPU that each runs on,
        by endpoint, as far as replicas and pools say it. ``usual_s``: mean time of requests.

        ``looks``: at the machine and the hub. Without, the entries are believed.
        """
        machine, downloads = MachineFacts(None), dict[str, Download]()
        if looks:
            async with self._lock:  # those who ask at once share the calls to the hub
                machine = await self._recent_machine()
                downloads = await self._downloads([real_endpoint(item) for item in entries])
        answers: list[Preflight] = []
        for entry in entries:
            id_ = entry.endpoint.id
            download = downloads.get(id_)
            if download is not None and machine.free_bytes is None:
                download = _elsewhere(download)
            own = replace(machine, device_bytes=devices.get(id_, machine.device_bytes))
            answers.append(preflight(entry, own, download, measured_s=usual_s(entry)))
        return answers

    def summary(self, entries: Iterable[CatalogEntry]) -> str:
        """Sentence about all entries: how many of their own models fit. Blocks."""
        return summary_of(entries, self._machine_of_replicas())

    async def _recent_machine(self) -> MachineFacts:
        now = self._clock.monotonic()
        if self._seen_machine is None or now - self._seen_machine[0] >= WANTED_FRESH_S:
            machine = await asyncio.to_thread(
                self._machine_of_replicas
            )  # takes a second with a GPU
            self._seen_machine = now, machine
        return self._seen_machine[1]

    def _machine_of_replicas(self) -> MachineFacts:
        return self._machine() if self._nodes() == 1 else MachineFacts(None)

    async def _downloads(self, endpoints: Sequence[Endpoint]) -> Mapping[str, Download]:
        now = self._clock.monotonic()
        stale = [endpoint for endpoint in endpoints if not self._is_fresh(endpoint, now)]
        if stale:
            downloads = await asyncio.to_thread(self._look, stale)
            self._seen |= {
                endpoint.id: (endpoint, now, downloads[endpoint.id]) for endpoint in stale
            }
        answers = {endpoint.id: self._seen[endpoint.id][2] for endpoint in endpoints}
        for id_ in [*self._seen][: max(0, len(self._seen) - MOST_SEEN)]:
            del self._seen[id_]
        return answers

    def _is_fresh(self, endpoint: Endpoint, now: float) -> bool:
        if (seen := self._seen.get(endpoint.id)) is None or seen[0].weights != endpoint.weights:
            return False
        _, at, download = seen
        return now - at < (FRESH_S if download.is_here else WANTED_FRESH_S)


def _elsewhere(download: Download) -> Download:
    """What the download is on machines whose disks nobody has looked at."""
    return replace(download, missing_bytes=None) if download.total_bytes else download
