"""What travels to the GPU machine stays small enough."""

from __future__ import annotations

import pytest

from tests.gpu_rehearsal.travel import (
    DEMO,
    DEMO_BYTES,
    TRAVELS_BYTES,
    TREE_BYTES,
    Archive,
    archive_of_head,
    find_pin,
    size_problems,
)


@pytest.fixture(scope="module")
def archive() -> Archive:
    return archive_of_head()


def test_the_archive_leaves_room_for_wheels(archive: Archive) -> None:
    assert len(archive.tar) <= TREE_BYTES, archive.largest_folders()


def test_the_demo_models_take_no_more_of_it_than_they_do(archive: Archive) -> None:
    assert 0 < archive.bytes_under(DEMO) <= DEMO_BYTES, archive.largest_folders()


def test_a_tree_that_is_too_large_is_named_with_its_folders(archive: Archive) -> None:
    largest = archive.largest_folders()
    assert largest[0][0] == str(DEMO)
    assert not size_problems(TRAVELS_BYTES - 1, 1, largest)
    (problem,) = size_problems(TRAVELS_BYTES, 1, largest)
    assert problem.startswith("The tree and the wheels have 67,108,865 bytes, and 67,108,864")
    assert f"The largest folders: {DEMO} " in problem


def test_a_version_is_read_from_the_constraints() -> None:
    text = "huggingface-hub==2.0\nhub==1.0\nhub-more==3.0\n"
    assert find_pin(text, "hub") == "hub==1.0"
    with pytest.raises(SystemExit, match=r"no version of torch"):
        find_pin(text, "torch")
