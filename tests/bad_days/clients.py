"""Clients that repeat a call until it is answered, and write down how it was answered."""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import httpx

from serve_app.cli.generation.files import outputs
from tests.cluster.nodes import client_at

ENDPOINT = "/queue/test/small"
GENERATION = {"steps": 20, "step_ms": 25, "artifacts": 1}
CALL_S = 120.0
"""Time after which a client gives up a call and makes it again."""
PAUSE_S = 0.5
PATIENCE_S = 300.0


class Final(Exception):
    """An answer after which a client does not try again."""


@dataclass
class Heard:
    """What all clients saw. Times are those of ``time.monotonic``."""

    accepted_at: dict[str, float] = field(default_factory=dict[str, float])  # by request id
    slowest_submit_s: float = 0.0  # with all its repetitions
    answers: Counter[str] = field(default_factory=Counter[str])  # those that were no success
    final: list[str] = field(default_factory=list[str])
    states: dict[str, str] = field(default_factory=dict[str, str])  # ends, by request id

    def longest_gap_s(self, began: float, ended: float) -> float:
        """Longest time without an accepted submit."""
        times = sorted(at for at in self.accepted_at.values() if began <= at <= ended)
        return max(later - at for at, later in itertools.pairwise([began, *times, ended]))


class Clients:
    """``followers`` each submit a request with a webhook, follow it to its end, and read its file;
    ``submitters`` submit another after each answer. Until the end of the block."""

    def __init__(self, port: int, webhook_url: str, followers: int, submitters: int) -> None:
        self.heard = Heard()
        self._port = port
        self._webhook_url = webhook_url
        self._over = threading.Event()
        works = [self._generate] * followers + [self._submit] * submitters
        self._threads = [threading.Thread(target=self._work, args=(work,)) for work in works]

    def __enter__(self) -> Clients:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _work(self, once: Callable[[httpx.Client], object]) -> None:
        while not self._over.is_set():
            # A connection for each, as from many clients.
            with client_at(self._port) as client, suppress(Final):
                client.timeout = httpx.Timeout(CALL_S)
                once(client)
            self._over.wait(PAUSE_S)

    def _submit(self, client: httpx.Client) -> tuple[str, str]:
        """Id of a request, and what its file holds."""
        content = uuid4().hex
        began = time.monotonic()
        request_id = self._call(
            client,
            "POST",
            ENDPOINT,
            params={"fal_webhook": self._webhook_url},
            headers={"Idempotency-Key": content},
            json=GENERATION | {"content": content},
        ).json()["request_id"]
        self.heard.accepted_at[request_id] = time.monotonic()
        took = time.monotonic() - began
        self.heard.slowest_submit_s = max(self.heard.slowest_submit_s, took)
        return request_id, content

    def _generate(self, client: httpx.Client) -> None:
        request_id, content = self._submit(client)
        url = f"{ENDPOINT}/requests/{request_id}"
        while self._call(client, "GET", f"{url}/status").json()["status"] != "COMPLETED":
            time.sleep(PAUSE_S)
        self.heard.states[request_id] = self._call(
            client, "GET", f"/v1/requests/{request_id}"
        ).json()["state"]
        (file,) = outputs(self._call(client, "GET", url).json())
        if self._call(client, "GET", file["url"]).content != content.encode():
            self.heard.final.append(
                f"{request_id}: {PurePosixPath(urlsplit(file['url']).path)} differs"
            )

    def _call(self, client: httpx.Client, method: str, url: str, **call: Any) -> httpx.Response:
        """The success of a call, which is repeated as a careful client does it: after lost
        connections, 429 and 5xx, and not after other errors."""
        give_up = time.monotonic() + PATIENCE_S
        while True:
            try:
                answer = client.request(method, url, **call)
            except httpx.TransportError as error:
                self.heard.answers[type(error).__name__] += 1
                wait_s = PAUSE_S
            else:
                if answer.is_success:
                    return answer
                after = answer.headers.get("retry-after")
                status = str(answer.status_code) + (" with Retry-After" if after else "")
                self.heard.answers[status] += 1
                if answer.status_code < 500 and answer.status_code != 429:
                    self.heard.final.append(f"{method} {url}: {status} {answer.text[:200]}")
                    raise Final(status)
                wait_s = float(after or PAUSE_S)
            if time.monotonic() > give_up:
                self.heard.final.append(f"{method} {url}: nothing for {PATIENCE_S} s")
                raise Final(url)
            time.sleep(wait_s)
