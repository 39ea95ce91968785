"""Derived files: bounded, whole or not there, and the first to go when weights need the room."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from serve_app.domain.endpoint import Weights
from tests.weights.conftest import COMMIT, MakeStore, write_repository
from tests.weights.hub_server import HubServer
from weights.derived import FOLDER, DerivedFiles


def files(directory: Path, limit: int = 1000, free: int = 10**9) -> DerivedFiles:
    return DerivedFiles(directory, lambda: limit, lambda _: free)


def write_file(kept: DerivedFiles, name: str, size: int, used_at: float = 0.0) -> bool:
    def write(path: Path) -> None:
        path.write_bytes(b"x" * size)

    is_kept = kept.write(name, size, write)
    if used_at and (path := kept.find(name)):
        os.utime(path, (used_at, used_at))
    return is_kept


def names(directory: Path) -> set[str]:
    return {path.name for path in (directory / FOLDER).iterdir()}


def test_the_longest_unused_makes_room(tmp_path: Path) -> None:
    kept = files(tmp_path)
    for name, used_at in (("a", 200.0), ("b", 100.0), ("c", 300.0)):
        assert write_file(kept, name, 300, used_at)
    assert write_file(kept, "d", 300)
    assert names(tmp_path) == {"a", "c", "d"}


def test_a_file_that_is_found_counts_as_used(tmp_path: Path) -> None:
    kept = files(tmp_path)
    for name, used_at in (("a", 100.0), ("b", 200.0), ("c", 300.0)):
        write_file(kept, name, 300, used_at)
    derived_file = kept.find("a")
    assert derived_file is not None
    assert derived_file.read_bytes() == b"x" * 300
    write_file(kept, "d", 300)
    assert names(tmp_path) == {"a", "c", "d"}
    assert kept.find("b") is None


def test_a_file_that_is_larger_than_the_limit_or_the_disk_is_not_kept(tmp_path: Path) -> None:
    assert write_file(files(tmp_path), "a", 300)
    assert not write_file(files(tmp_path), "b", 1001)
    assert names(tmp_path) == {"a"}
    assert not write_file(files(tmp_path, free=100), "c", 300)


def test_a_file_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    def fail(path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError("the disk is full")

    assert not files(tmp_path).write("a", 300, fail)
    assert names(tmp_path) == set()
    write_file(files(tmp_path), "a", 300)
    assert not files(tmp_path).write("a", 300, fail)
    derived_file = files(tmp_path).find("a")
    assert derived_file is not None
    assert derived_file.stat().st_size == 300


def test_a_directory_that_cannot_be_written_keeps_nothing(tmp_path: Path) -> None:
    (tmp_path / FOLDER).write_text("a file")
    assert not write_file(files(tmp_path), "a", 300)
    assert files(tmp_path).find("a") is None
    files(tmp_path).discard("a")


def test_weights_that_are_downloaded_take_the_room_of_derived_files(
    make_store: MakeStore, hub: HubServer, tmp_path: Path
) -> None:
    hub.add("house/a", COMMIT, write_repository(tmp_path / "a", 10))
    store = make_store(max_bytes=700_000)  # it takes 560,000
    derived = store.derived_files()
    for name, used_at in (("old", 100.0), ("new", 200.0)):
        assert write_file(derived, name, 100_000, used_at)
    with store.open(Weights("house/a", COMMIT)):
        pass
    assert names(store.directory) == {"new"}
    assert not write_file(derived, "more", 200_000)
    assert write_file(derived, "less", 100_000)


@pytest.mark.parametrize("there", [True, False])
def test_without_a_limit_they_take_a_share_of_the_disk(make_store: MakeStore, there: bool) -> None:
    store = make_store()
    if there:
        store.directory.mkdir(parents=True, exist_ok=True)
    assert write_file(store.derived_files(), "a", 300)
    assert not write_file(store.derived_files(), "b", 10**18)
