"""Files of commands have their names when they are whole, or not at all."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from serve_app.cli.connection.whole_file import FileThere, part_of, whole_file
from serve_app.domain.errors import Misconfigured


def test_a_file_has_its_name_only_when_it_is_whole(tmp_path: Path) -> None:
    target = tmp_path / "a"
    target.write_text("before")
    target.chmod(0o600)
    with whole_file(target) as file:
        file.write(b"after")
        file.flush()
        assert target.read_text() == "before"
    assert (target.read_text(), target.stat().st_mode & 0o777) == ("after", 0o600)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_full_disk_is_said_in_a_sentence_and_the_file_before_stays(tmp_path: Path) -> None:
    target = tmp_path / "a"
    target.write_text("before")
    part_of(target).symlink_to("/dev/full")
    with pytest.raises(Misconfigured, match="a cannot be written: No space left"):
        with whole_file(target) as file:
            file.write(b"after")
    assert target.read_text() == "before"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_new_file_replaces_none_that_came_meanwhile(tmp_path: Path) -> None:
    target = tmp_path / "a"
    with pytest.raises(FileThere, match="exists"), whole_file(target, new=True):
        target.write_text("of another program")
    assert target.read_text() == "of another program"
    with pytest.raises(FileThere, match="exists"), whole_file(target, new=True):
        pytest.fail("it is not opened")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_link_stays_one_and_its_file_is_replaced(tmp_path: Path) -> None:
    real, link = tmp_path / "real", tmp_path / "link"
    real.write_text("before")
    link.symlink_to(real)
    with whole_file(link) as file:
        file.write(b"after")
    assert link.is_symlink()
    assert real.read_text() == "after"


def test_a_pipe_is_written_to_and_not_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()))
    reader.start()
    with whole_file(pipe) as file:
        file.write(b"image")
    reader.join(10)
    assert (read, pipe.is_fifo()) == ([b"image"], True)


def test_what_is_no_folder_cannot_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(Misconfigured, match="cannot be written: Not a directory"):
        with whole_file(tmp_path / "file" / "a"):
            pytest.fail("it is not opened")
