"""What is known of weights before they are downloaded, from a hub on loopback."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from serve_app.domain.endpoint import StoreConfig, Weights
from serve_app.domain.preflight import HubState
from tests.weights.conftest import COMMIT, NAME, write_repository
from tests.weights.hub_server import HubServer, serving
from weights.availability import Availability, look
from weights.hub import Hub
from weights.store import Store

WANTED = Weights(NAME, COMMIT)


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HubServer]:
    server = HubServer()
    server.add(NAME, COMMIT, write_repository(tmp_path / "published"))
    with serving(server):
        yield server


@pytest.fixture
def store(hub: HubServer, tmp_path: Path) -> Store:
    return Store(
        StoreConfig(directory=tmp_path / "store"), lambda: Hub(hub.url, "", answer_s=2.0, tries=1)
    )


def find_availability(store: Store, within_s: float | None = None) -> Availability:
    return look(store, [WANTED, WANTED], within_s)[WANTED]


def test_what_the_hub_gives_has_a_size_and_what_is_here_needs_no_hub(
    hub: HubServer, store: Store
) -> None:
    availability = find_availability(store)
    assert availability.source is HubState.GIVES
    assert availability.download.missing_bytes == availability.download.total_bytes
    with store.open(WANTED):
        pass
    hub.asked.clear()
    availability = find_availability(store)
    assert (availability.source, availability.download.missing_bytes) == (HubState.NOT_NEEDED, 0)
    assert hub.asked == []


def test_a_gated_repository_is_refused_and_named_as_gated(hub: HubServer, store: Store) -> None:
    hub.gated.add(NAME)
    availability = find_availability(store)
    assert (availability.source, availability.gated) == (HubState.REFUSES, True)
    assert "accept its licence" in availability.problem


def test_one_that_is_not_there_is_refused(hub: HubServer, store: Store) -> None:
    hub.repositories.clear()
    assert (find_availability(store).source, find_availability(store).gated) == (
        HubState.REFUSES,
        None,
    )


def test_a_hub_that_fails_is_not_reached(hub: HubServer, store: Store) -> None:
    hub.statuses.append((503, {}))
    assert find_availability(store).source is HubState.UNREACHABLE


def test_a_hub_that_is_silent_is_waited_for_as_long_as_one_says(
    hub: HubServer, store: Store
) -> None:
    hub.hold_after["model_index.json"] = 0
    availability = find_availability(store, within_s=0.2)
    assert availability.source is HubState.UNREACHABLE
    assert f"does not answer about {NAME}" in availability.problem
    hub.go.set()


def test_a_machine_that_is_offline_asks_nobody(hub: HubServer, tmp_path: Path) -> None:
    store = Store(StoreConfig(directory=tmp_path / "store", offline=True), lambda: Hub(hub.url))
    assert find_availability(store).source is HubState.OFFLINE
    assert hub.asked == []
