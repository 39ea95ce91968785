"""Files of an artifact directory, in the order of their keys."""

from __future__ import annotations

from pathlib import Path

import pytest

from serve_app.storage import listing
from serve_app.storage.listing import walk

KEYS = ["r/a-b/1.png", "r/a.b", "r/a/1/x.png", "r/a/1/y.png", "r/a/2.png", "r/a0", "s/a", "u/b/c"]


@pytest.mark.parametrize("at_once", [1, 2, 100])
def test_files_come_in_the_byte_order_of_their_keys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    monkeypatch.setattr(listing, "NAMES_AT_ONCE", at_once)
    for key in reversed(KEYS):
        path = tmp_path / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(key.encode())
    files = list(walk(tmp_path))
    assert [file.key for file in files] == sorted(KEYS)
    assert [file.size for file in files] == [len(key) for key in sorted(KEYS)]


def test_uploads_under_way_and_foreign_files_are_left_out(tmp_path: Path) -> None:
    for name in ("r/.a.png.0123.part", ".parts/0123/1-etag", "check/a.bin", "README"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert list(walk(tmp_path)) == []


def test_no_directory_is_no_files(tmp_path: Path) -> None:
    assert list(walk(tmp_path / "nothing")) == []
