"""Size limit of the store: which repositories are evicted."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from huggingface_hub import hf_hub_download

from serve_app.domain.endpoint import Weights
from serve_app.domain.errors import WeightsUnavailable
from tests.weights.conftest import COMMIT, NEEDED, MakeStore, write_repository
from tests.weights.hub_server import HubServer
from weights.store import Store

ONE = 560_000  # bytes, slightly more than a repository needs
UNET = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture(autouse=True)
def _more_repositories(hub: HubServer, tmp_path: Path) -> None:
    for seed, name in enumerate(("a", "b", "c"), 10):
        hub.add(f"house/{name}", COMMIT, write_repository(tmp_path / name, seed))


def house(name: str) -> Weights:
    return Weights(f"house/{name}", COMMIT)


def pulled(store: Store, name: str, used_at: float) -> Path:
    with store.open(house(name)) as folder:
        pass
    os.utime(folder.parents[1] / ".darkroom" / "used", (used_at, used_at))
    return folder


def here(store: Store) -> set[str]:
    return {name for name in "abc" if store.is_here(house(name))}


def test_the_least_recently_used_makes_room(make_store: MakeStore) -> None:
    store = make_store(max_bytes=2 * ONE)
    pulled(store, "a", used_at=200)
    pulled(store, "b", used_at=100)
    pulled(store, "c", used_at=300)
    assert here(store) == {"a", "c"}
    assert not (store.directory / "models--house--b").exists()


def test_what_is_in_use_stays(make_store: MakeStore) -> None:
    store = make_store(max_bytes=2 * ONE)
    pulled(store, "a", used_at=100)
    pulled(store, "b", used_at=200)
    with store.open(house("a")) as folder:
        os.utime(folder.parents[1] / ".darkroom" / "used", (1, 1))
        pulled(store, "c", used_at=300)
        assert here(store) == {"a", "c"}


def test_when_all_others_are_in_use_it_is_an_error(make_store: MakeStore) -> None:
    store = make_store(max_bytes=ONE)
    with store.open(house("a")):
        with pytest.raises(WeightsUnavailable, match=r"in use\. Raise DARKROOM_WEIGHTS_MAX_BYTES"):
            pulled(store, "b", used_at=1)
    assert here(store) == {"a"}


def test_what_alone_passes_the_cap_is_refused_before_anything_goes(
    make_store: MakeStore, hub: HubServer
) -> None:
    pulled(make_store(), "a", used_at=1)
    hub.asked.clear()
    store = make_store(max_bytes=ONE // 2)
    with pytest.raises(
        WeightsUnavailable, match=r"house/b takes 0\.6 MB, but all weights together"
    ):
        pulled(store, "b", used_at=2)
    assert here(store) == {"a"}
    assert hub.downloads(UNET) == []


def test_what_other_programs_have_downloaded_neither_counts_nor_goes(
    make_store: MakeStore, hub: HubServer
) -> None:
    store = make_store(max_bytes=ONE)
    for each in NEEDED:
        hf_hub_download(
            "house/a", each, revision=COMMIT, cache_dir=store.directory, endpoint=hub.url
        )
    pulled(store, "a", used_at=1)
    pulled(store, "b", used_at=2)
    pulled(store, "c", used_at=3)
    assert here(store) == {"a", "c"}


def test_a_cap_of_nothing_is_no_cap(make_store: MakeStore) -> None:
    store = make_store(max_bytes=0)
    for number, name in enumerate("abc"):
        pulled(store, name, used_at=number)
    assert here(store) == {"a", "b", "c"}
