"""Temporary files for content that is too large for memory."""

import threading

import pytest

from deployments.engine.media.scratch import Scratch
from serve_app.domain.errors import Cancelled


def test_files_have_names_of_their_own_and_go_when_it_is_closed():
    scratch = Scratch()
    one, two = scratch.new_file("mp4"), scratch.new_file("jpg")
    assert (one.suffix, two.suffix) == (".mp4", ".jpg")
    assert one.stem != two.stem
    one.write_bytes(b"video")
    scratch.check()
    scratch.close()
    scratch.close()
    assert not one.parent.exists()


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
