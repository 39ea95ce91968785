"""What another tenant sees of an attack: its calls go on, and no process dies or grows."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import httpx
import psutil

from tests.attacks.attempts import Attempts
from tests.attacks.scene import Scene, outcome

PAUSE_S = 0.2
MOST_S = 50.0
"""A call of the bystander that takes longer hangs. Alone it takes milliseconds."""
MOST_GROWTH = 600 * 2**20  # bytes of resident memory of a process


@dataclass
class Bystander:
    """The victim, who lists and submits all the time."""

    scene: Scene
    slowest_s: float = 0.0
    calls: int = 0
    problems: list[str] = field(default_factory=list)
    most_bytes: dict[int, int] = field(default_factory=dict)  # resident, by process

    def watch(self, ends: threading.Event) -> None:
        with self.scene.client(self.scene.victim["admin"]) as http:
            while not ends.wait(PAUSE_S):
                began = time.monotonic()
                try:
                    self._call(http)
                except (httpx.HTTPError, AssertionError) as error:
                    self.problems.append(repr(error))
                self.slowest_s = max(self.slowest_s, time.monotonic() - began)
                self.calls += 1
                for pid, size in sizes(self.scene).items():
                    self.most_bytes[pid] = max(size, self.most_bytes.get(pid, 0))

    def _call(self, http: httpx.Client) -> None:
        assert http.get("/v1/requests", params={"limit": 1}).is_success
        submitted = http.post("/queue/test/probe", json={"echo": 1})
        assert submitted.is_success, submitted.text
        ended = outcome(http, submitted.json()["request_id"])
        assert ended["state"] == "succeeded", ended


def sizes(scene: Scene) -> dict[int, int]:
    """Resident bytes of the processes of the ingress and of the replicas, by their id."""
    running = [*scene.darkroom.replicas("ingress"), *scene.darkroom.replicas()]
    resident: dict[int, int] = {}
    for process in running:
        try:
            resident[process.pid] = process.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return resident


@contextmanager
def watch_bystander(
    scene: Scene, attempts: Attempts, *, most_s: float = MOST_S, most_growth: int = MOST_GROWTH
) -> Iterator[Bystander]:
    """Count as tries that the victim's calls go on during the block, that all processes live on,
    and that none takes much more memory."""
    before, ends = sizes(scene), threading.Event()
    bystander = Bystander(scene)
    thread = threading.Thread(target=bystander.watch, args=(ends,), daemon=True)
    thread.start()
    try:
        yield bystander
    finally:
        ends.set()
        thread.join()
    after = sizes(scene)
    attempts.note(f"processes {set(before)}, now {set(after)}", held=set(before) == set(after))
    attempts.note(f"the victim's calls: {bystander.problems}", held=not bystander.problems)
    slowest = f"the victim's slowest of {bystander.calls}: {bystander.slowest_s:.1f} s"
    attempts.note(slowest, held=bystander.slowest_s < most_s)
    for pid, size in (bystander.most_bytes | after).items():
        grown = max(size, bystander.most_bytes.get(pid, 0)) - before.get(pid, 0)
        attempts.note(f"{pid} has grown by {grown >> 20} MiB", held=grown < most_growth)
