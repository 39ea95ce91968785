"""Clients of a Darkroom, while something happens to it."""

from __future__ import annotations

import itertools
import threading
import time
from typing import Any

import httpx
import psycopg
from psycopg.rows import dict_row

from tests.cluster.darkroom import eventually
from tests.cluster.nodes import client_at

PAUSE_S = 0.25
MORE = 8
GENERATION = {"steps": 20, "step_ms": 50}


class Load:
    """Clients of the endpoint ``test/small``, each with a thread, until ``finish``.

    ``clients=0``: one that submits four requests a second and does not look at them. Else each
    submits a request, polls its status until it has ended, and reads its output; every fourth is a
    synchronous run.

    ``accepted`` are the ids that they were given, ``refused`` what else their calls ended with.
    """

    def __init__(self, port: int, conninfo: str, clients: int = 0) -> None:
        self.accepted: list[str] = []
        self.refused: list[str] = []
        self.served_at: list[float] = []
        self._port = port
        self._conninfo = conninfo
        self._over = threading.Event()
        works = [self._follow] * clients or [self._submit]
        self._threads = [threading.Thread(target=self._work, args=(work,)) for work in works]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def _stop(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _work(self, once: Any) -> None:
        with client_at(self._port) as client:
            for number in itertools.count(1):
                if self._over.is_set():
                    return
                try:
                    once(client, number)
                except (httpx.HTTPError, AssertionError) as error:
                    self.refused.append(f"{time.strftime('%H:%M:%S')} {error!r}")
                    self._over.wait(PAUSE_S)

    def _submit(self, client: httpx.Client, _number: int) -> None:
        self._accept(client)
        self._over.wait(PAUSE_S)

    def _follow(self, client: httpx.Client, number: int) -> None:
        if number % 4 == 0:
            answer = client.post("/run/test/small", json=GENERATION).raise_for_status()
            self.accepted.append(answer.headers["x-fal-request-id"])
            self.served_at.append(time.monotonic())
            return
        url = f"/queue/test/small/requests/{self._accept(client)}"
        while client.get(f"{url}/status").raise_for_status().json()["status"] != "COMPLETED":
            time.sleep(PAUSE_S)
        output = client.get(url).raise_for_status().json()
        assert output["steps"] == GENERATION["steps"], output

    def _accept(self, client: httpx.Client) -> str:
        answer = client.post("/queue/test/small", json=GENERATION).raise_for_status()
        request_id = str(answer.json()["request_id"])
        self.accepted.append(request_id)
        self.served_at.append(time.monotonic())
        return request_id

    def goes_on(self, more: int = MORE) -> None:
        """Wait until so many more requests are accepted."""
        before = len(self.accepted)
        try:
            eventually(lambda: len(self.accepted) >= before + more, "requests are accepted")
        except AssertionError as late:
            late.add_note(f"{len(self.accepted) - before} accepted; refused: {self.refused[-3:]}")
            raise

    def finish(self) -> None:
        """Stop, and wait until all that was accepted has ended."""
        self._stop()
        pairs = zip(self.served_at, self.served_at[1:], strict=False)
        longest = max(later - earlier for earlier, later in pairs)
        print(f"{len(self.accepted)} accepted, longest gap {longest:.1f} s")  # noqa: T201
        eventually(lambda: all(row["finished_at"] for row in self.rows()), "all requests end")

    def rows(self) -> list[dict[str, Any]]:
        """What is stored of the accepted requests; each is there."""
        query = "SELECT id, state, attempt, failures, finished_at FROM requests WHERE id = ANY(%s)"
        with (
            psycopg.connect(self._conninfo) as database,
            database.cursor(row_factory=dict_row) as cursor,
        ):
            rows = cursor.execute(query, (self.accepted,)).fetchall()
        assert len(rows) == len(self.accepted)
        return rows

    def replicas(self, count: int = 2) -> set[str]:
        """Ids of the replicas that are ready. Waits until there are so many."""

        def look() -> set[str]:
            with client_at(self._port) as client:
                try:
                    answer = client.get("/v1/status").raise_for_status()
                except httpx.HTTPError:
                    return set()
            fresh = [replica for replica in answer.json()["replicas"] if replica["seen_s"] < 7]
            return {replica["replica_id"] for replica in fresh if replica["stage"] == "ready"}

        def all_of_them() -> set[str]:
            replica_ids = look()
            return replica_ids if len(replica_ids) == count else set()

        return eventually(all_of_them, f"{count} replicas")
