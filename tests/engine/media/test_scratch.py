"""Temporary files for content that is too large for memory."""

import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest

from deployments.engine.media import scratch as module
from deployments.engine.media.scratch import Scratch, new_folder, remove_abandoned
from serve_app.domain.errors import Cancelled


def test_files_have_names_of_their_own_and_go_when_it_is_closed():
    scratch = Scratch()
    first, two = scratch.new_file("mp4"), scratch.new_file("jpg")
    assert (first.suffix, two.suffix) == (".mp4", ".jpg")
    assert first.stem != two.stem
    first.write_bytes(b"video")
    scratch.check()
    scratch.close()
    scratch.close()
    assert not first.parent.exists()


def test_no_folder_is_made_where_no_file_is_asked_for():
    scratch = Scratch()
    with scratch.busy():
        pass
    scratch.close()


def test_a_thread_at_work_keeps_the_folder_until_it_notices_that_it_is_closed():
    scratch = Scratch()
    path = scratch.new_file("mp4")
    begun, closed = threading.Event(), threading.Event()
    seen = []

    def work():
        with scratch.busy():
            begun.set()
            closed.wait(10)
            path.write_bytes(b"half of a video")
            seen.append(path.exists())
            try:
                scratch.check()
            except Cancelled as error:
                seen.append(error.message)

    thread = threading.Thread(target=work)
    thread.start()
    begun.wait(10)
    scratch.close()
    assert path.parent.exists()
    closed.set()
    thread.join(10)
    assert seen == [True, "The request was cancelled."]
    assert not path.parent.exists()


def test_a_closed_one_gives_no_more_files():
    scratch = Scratch()
    scratch.close()
    with pytest.raises(Cancelled):
        scratch.new_file("mp4")


HOLDER = """\
import sys, tempfile
tempfile.tempdir = sys.argv[1]
from deployments.engine.media.scratch import Scratch
scratch = Scratch()
path = scratch.new_file("mp4")
path.write_bytes(b"half of a video")
print(path.parent, flush=True)
sys.stdin.read()
"""


def test_files_of_a_process_that_was_killed_go_and_those_of_others_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    root = str(Path(module.__file__).parents[3])
    with subprocess.Popen(
        command,
        env={"PYTHONPATH": root},
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as holder:
        assert holder.stdout is not None
        left, mine = Path(holder.stdout.readline().strip()), new_folder()
        other = tmp_path / "darkroom-others"
        other.mkdir()
        remove_abandoned()
        assert left.exists()
        holder.kill()
    remove_abandoned()
    assert not left.exists()
    assert mine.path.exists()
    assert other.exists()
    mine.remove()
    assert not mine.path.exists()
