"""A shared directory: weights on a volume that all nodes mount are used where they are."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from serve_app.domain.endpoint import StoreConfig
from serve_app.domain.errors import WeightsUnavailable
from tests.weights.conftest import COMMIT, WEIGHTS, MakeStore
from weights.folder import RepositoryFolder
from weights.hub import Hub
from weights.store import Store

UNET = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture
def volume(make_store: MakeStore, tmp_path: Path) -> Path:
    """A directory that `darkroom models pull` has filled on another machine."""
    directory = tmp_path / "volume"
    with make_store(directory=directory).open(WEIGHTS):
        pass
    shutil.rmtree(directory / ".locks")  # a volume that is mounted read-only gets none
    return directory


def on_node(tmp_path: Path, volume: Path, *, offline: bool = False) -> Store:
    config = StoreConfig(directory=tmp_path / "node", shared_directory=volume, offline=offline)
    return Store(config, lambda: Hub("http://127.0.0.1:9", tries=1))


@pytest.mark.parametrize("offline", [False, True])
def test_weights_of_the_volume_are_used_where_they_are(
    tmp_path: Path, volume: Path, *, offline: bool
) -> None:
    store = on_node(tmp_path, volume, offline=offline)
    assert store.is_here(WEIGHTS)
    assert store.plan(WEIGHTS).missing_bytes == 0
    with store.open(WEIGHTS) as folder:
        assert folder.is_relative_to(volume)
        assert (folder / UNET).is_file()
    assert not (tmp_path / "node").exists()  # nothing was copied
    assert not (volume / ".locks").exists()  # nor written there


def test_weights_of_the_node_itself_come_first(
    tmp_path: Path, volume: Path, make_store: MakeStore
) -> None:
    with make_store(directory=tmp_path / "node").open(WEIGHTS):
        pass
    with on_node(tmp_path, volume).open(WEIGHTS) as folder:
        assert folder.is_relative_to(tmp_path / "node")


def test_a_volume_that_is_being_filled_is_not_used(
    tmp_path: Path, volume: Path, make_store: MakeStore
) -> None:
    (RepositoryFolder(volume, WEIGHTS.source).snapshot(COMMIT) / UNET).unlink()
    with (
        pytest.raises(WeightsUnavailable, match="cannot be reached"),
        on_node(tmp_path, volume).open(WEIGHTS),
    ):
        pass
    store = make_store(directory=tmp_path / "node", shared_directory=volume)
    with store.open(WEIGHTS) as folder:  # from the hub
        assert folder.is_relative_to(tmp_path / "node")


def test_what_another_program_has_put_on_the_volume_is_not_trusted_to_be_complete(
    tmp_path: Path, volume: Path
) -> None:
    shutil.rmtree(RepositoryFolder(volume, WEIGHTS.source).path / ".darkroom")
    assert not on_node(tmp_path, volume).is_here(WEIGHTS)
