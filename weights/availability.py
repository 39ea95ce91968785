"""What is known of weights before they are downloaded: their size, what is here, and whether the
hub gives them."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue

import httpx2
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError

from serve_app.domain.endpoint import Endpoint, Weights
from serve_app.domain.errors import DarkroomError
from serve_app.domain.preflight import Download, HubState
from weights.fetch import FetchPlan
from weights.hub import ELSEWHERE, SERVER_ERRORS
from weights.store import Store, repositories_of

MAX_CONCURRENT_HUB_CALLS = 8


@dataclass(frozen=True, slots=True)
class Availability:
    """State of one repository."""

    weights: Weights
    plan: FetchPlan | None  # None: nobody could say which files it has
    source: HubState
    gated: bool | None = None  # None: not known
    problem: str = ""  # why there is no plan, as a sentence

    @property
    def download(self) -> Download:
        if self.plan is None:
            return Download(None, None, self.source, "unknown", self.gated, self.problem)
        total, missing = self.plan.total_bytes, self.plan.missing_bytes
        return Download(total, missing, self.source, gated=self.gated)


def look(
    store: Store, requested: Iterable[Weights], within_s: float | None = None
) -> Mapping[Weights, Availability]:
    """State of each repository; the hub is asked about several at once.

    ``within_s``: one that has not been answered by then is unreachable, because a mirror that
    hangs, or a slow look-up of a name, takes longer than the hub's own timeouts.
    """
    waiting, answers = SimpleQueue[Weights](), dict[Weights, Availability]()
    repositories = [*dict.fromkeys(requested)]
    for repository in repositories:
        waiting.put(repository)

    def ask() -> None:
        with suppress(Empty):
            while True:
                weights = waiting.get_nowait()
                answers[weights] = _look_at(store, weights)

    # Daemons, because a program may end while the hub hangs.
    threads = [
        threading.Thread(target=ask, daemon=True, name="hub")
        for _ in repositories[:MAX_CONCURRENT_HUB_CALLS]
    ]
    until = None if within_s is None else time.monotonic() + within_s
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(None if until is None else max(0.0, until - time.monotonic()))
    with suppress(Empty):  # those that nobody has begun with are not asked about any more
        while True:
            waiting.get_nowait()
    return {source: answers.get(source) or _silent(source) for source in repositories}


def _look_at(store: Store, weights: Weights) -> Availability:
    try:
        plan = store.plan(weights)
    except DarkroomError as error:
        if store.offline:
            return Availability(weights, None, HubState.OFFLINE, problem=error.message)
        source, gated = _reason(error.__cause__)
        return Availability(weights, None, source, gated, error.message)
    if not plan.missing:
        return Availability(weights, plan, HubState.NOT_NEEDED)
    if store.offline:
        return Availability(weights, plan, HubState.OFFLINE)
    return Availability(weights, plan, HubState.GIVES)


def _reason(cause: BaseException | None) -> tuple[HubState, bool | None]:
    """State of the hub after an error of its library, and whether the repository is gated."""
    if isinstance(cause, GatedRepoError):
        return HubState.REFUSES, True
    if isinstance(cause, HfHubHTTPError) and cause.response.status_code < SERVER_ERRORS:
        return HubState.REFUSES, None
    silent = isinstance(cause, (httpx2.HTTPError, HfHubHTTPError, OSError))
    return (HubState.UNREACHABLE if silent else HubState.REFUSES), None


def _silent(weights: Weights) -> Availability:
    return Availability(
        weights,
        None,
        HubState.UNREACHABLE,
        problem=f"The hub does not answer about {weights.source}. Check the network, HTTPS_PROXY "
        f"and HF_ENDPOINT, or set DARKROOM_OFFLINE=1. {ELSEWHERE}",
    )


Needed = Mapping[str, Sequence[Weights]]
"""Repositories that endpoints need, by id; several may share one."""


def needed_by(endpoints: Iterable[Endpoint]) -> Needed:
    return {endpoint.id: repositories_of(endpoint) for endpoint in endpoints}


def look_for(
    store: Store, needed: Needed, within_s: float | None = None
) -> tuple[Mapping[Weights, Availability], Mapping[str, Download]]:
    """State of each repository, and the download of each endpoint by id. See ``look``."""
    states = look(store, (repository for own in needed.values() for repository in own), within_s)
    return states, {
        endpoint: Download.together(states[repository].download for repository in own)
        for endpoint, own in needed.items()
    }
