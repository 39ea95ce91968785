"""Size limit of the store: which repositories are evicted."""

from __future__ import annotations

import os
import shutil
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


def pull_weights(store: Store, name: str, used_at: float) -> Path:
    with store.open(house(name)) as folder:
        pass
    os.utime(folder.parents[1] / ".darkroom" / "used", (used_at, used_at))
    return folder


def here(store: Store) -> set[str]:
    return {name for name in "abc" if store.is_here(house(name))}


def test_the_least_recently_used_makes_room(make_store: MakeStore) -> None:
    store = make_store(max_bytes=2 * ONE)
    pull_weights(store, "a", used_at=200)
    pull_weights(store, "b", used_at=100)
    pull_weights(store, "c", used_at=300)
    assert here(store) == {"a", "c"}
    assert not (store.directory / "models--house--b").exists()


def test_what_is_in_use_stays(make_store: MakeStore) -> None:
    store = make_store(max_bytes=2 * ONE)
    pull_weights(store, "a", used_at=100)
    pull_weights(store, "b", used_at=200)
    with store.open(house("a")) as folder:
        os.utime(folder.parents[1] / ".darkroom" / "used", (1, 1))
        pull_weights(store, "c", used_at=300)
        assert here(store) == {"a", "c"}


def test_when_all_others_are_in_use_it_is_an_error(make_store: MakeStore) -> None:
    store = make_store(max_bytes=ONE)
    with store.open(house("a")):
        with pytest.raises(WeightsUnavailable, match=r"in use\. Raise DARKROOM_WEIGHTS_MAX_BYTES"):
            pull_weights(store, "b", used_at=1)
    assert here(store) == {"a"}


def test_what_alone_passes_the_cap_is_refused_before_anything_goes(
    make_store: MakeStore, hub: HubServer
) -> None:
    pull_weights(make_store(), "a", used_at=1)
    hub.asked.clear()
    store = make_store(max_bytes=ONE // 2)
    with pytest.raises(
        WeightsUnavailable, match=r"house/b takes 0\.6 MB, but all weights together"
    ):
        pull_weights(store, "b", used_at=2)
    assert here(store) == {"a"}
    assert hub.downloads(UNET) == []


def test_what_other_programs_have_downloaded_neither_counts_nor_goes(
    make_store: MakeStore, hub: HubServer
) -> None:
    store = make_store(max_bytes=ONE)
    for name in NEEDED:
        hf_hub_download(
            "house/a", name, revision=COMMIT, cache_dir=store.directory, endpoint=hub.url
        )
    pull_weights(store, "a", used_at=1)
    pull_weights(store, "b", used_at=2)
    pull_weights(store, "c", used_at=3)
    assert here(store) == {"a", "c"}


NEW = "f" * 40


def publish_new(hub: HubServer, tmp_path: Path, name: str, *, unet: bool = True) -> Weights:
    """A new revision of ``name``. Without ``unet`` that file is the same as before."""
    folder = write_repository(tmp_path / f"new-{name}", seed=20)
    if not unet:
        shutil.copy(tmp_path / name / UNET, folder / UNET)
    hub.add(f"house/{name}", NEW, folder)
    return Weights(f"house/{name}", NEW)


def test_a_new_revision_makes_room_by_removing_the_old_one(
    make_store: MakeStore, hub: HubServer, tmp_path: Path
) -> None:
    store = make_store(max_bytes=ONE)
    old = pull_weights(store, "a", used_at=1)
    read = (old / UNET).open("rb")  # by a replica that runs
    part = old.parents[1] / "blobs" / f"{'0' * 64}.part"
    part.write_bytes(bytes(1000))
    with store.open(publish_new(hub, tmp_path, "a")) as new:
        assert (new / UNET).read_bytes() == (tmp_path / "new-a" / UNET).read_bytes()
    assert not store.is_here(house("a"))
    assert not (old / UNET).is_symlink()
    assert not part.exists()
    with read:
        assert read.read() == (tmp_path / "a" / UNET).read_bytes()
    hub.add("house/a", COMMIT, tmp_path / "a")
    assert pull_weights(store, "a", used_at=1) == old
    assert store.is_here(house("a"))


def test_what_both_revisions_have_is_neither_removed_nor_fetched_again(
    make_store: MakeStore, hub: HubServer, tmp_path: Path
) -> None:
    store = make_store(max_bytes=ONE)
    pull_weights(store, "a", used_at=1)
    new = publish_new(hub, tmp_path, "a", unet=False)
    hub.asked.clear()
    with store.open(new) as folder:
        assert (folder / UNET).read_bytes() == (tmp_path / "a" / UNET).read_bytes()
    assert hub.downloads(UNET) == []


def test_an_old_revision_goes_before_other_repositories(
    make_store: MakeStore, hub: HubServer, tmp_path: Path
) -> None:
    store = make_store(max_bytes=2 * ONE)
    pull_weights(store, "b", used_at=1)
    pull_weights(store, "a", used_at=2)
    with store.open(publish_new(hub, tmp_path, "a")):
        assert here(store) == {"b"}


def test_another_variant_goes_after_other_repositories_if_both_fit(
    make_store: MakeStore,
) -> None:
    store = make_store(max_bytes=3 * ONE // 2)
    pull_weights(store, "b", used_at=1)
    pull_weights(store, "a", used_at=2)
    half = Weights("house/a", COMMIT, variant="fp16")
    with store.open(half):
        assert here(store) == {"a"}
    tight = make_store(max_bytes=ONE)
    pull_weights(tight, "b", used_at=3)
    pull_weights(tight, "a", used_at=4)
    with tight.open(half):
        assert tight.is_here(half)
        assert here(tight) == set()


def test_a_cap_of_nothing_is_no_cap(make_store: MakeStore) -> None:
    store = make_store(max_bytes=0)
    for number, name in enumerate("abc"):
        pull_weights(store, name, used_at=number)
    assert here(store) == {"a", "b", "c"}
