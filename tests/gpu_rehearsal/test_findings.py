"""A run is right if no section failed and all that it leaves comes back from the GPU machine."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.gpu_rehearsal.findings import (
    FILE_BYTES,
    FILES,
    PRINTED,
    cut_sections,
    failed_sections,
    left_behind,
    problems,
    sections_of,
)
from tests.gpu_rehearsal.running import Ran

DONE = {"status": "done", "error": None}
CUT = {"status": "cut"}
FAILED = {"status": "failed", "error": "ValueError: broken"}


def test_a_section_that_failed_or_ended_the_process_is_named() -> None:
    sections = {"first": DONE, "second": CUT, "third": FAILED, "fourth": {"status": "running"}}
    assert [*failed_sections(sections)] == [
        "Section third: ValueError: broken",
        "Section fourth: it ended the process.",
    ]
    assert cut_sections(sections) == ["second"]
    assert [*failed_sections({})] == ["There is no result of a section."]


def test_results_are_read_by_section(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text(json.dumps({"sections": {"second": FAILED}}))
    assert sections_of(tmp_path) == {"second": FAILED}


def test_a_run_without_results_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"there is no results\.json"):
        sections_of(tmp_path)


@pytest.mark.parametrize("content", ["{", "[]", "3", '{"sections": 3}', '{"sections": null}'])
def test_results_that_cannot_be_read_are_an_error(tmp_path: Path, content: str) -> None:
    (tmp_path / "results.json").write_text(content)
    with pytest.raises(ValueError, match=r"."):
        sections_of(tmp_path)


def test_what_a_run_prints_and_how_it_ends_is_judged() -> None:
    assert not [*problems(Ran(0, "x" * PRINTED))]
    assert [*problems(Ran(0, "x" * 12_001))] == [
        "It printed 12,001 characters, and the last 12,000 come back."
    ]
    assert [*problems(Ran(1, ""))] == ["Its exit status is 1."]
    assert [*problems(Ran(None, ""))] == ["It was ended at its limit of time."]
    line = '{"graphs": "left out: peft is missing"}'
    assert [*problems(Ran(0, f"{line}\n"))] == [f"A section lacks a package: {line}"]
    assert not [*problems(Ran(0, '{"graphs": "left out: it says nothing on a CPU"}'))]


def test_files_that_do_not_come_back_are_named(tmp_path: Path) -> None:
    (tmp_path / "a" / "b" / "c").mkdir(parents=True)
    (tmp_path / "a" / "b" / "good_name-1.txt").touch()
    assert not [*left_behind(tmp_path)]
    (tmp_path / "a" / "b" / "c" / "deep").touch()
    (tmp_path / "a b").touch()
    (tmp_path / "link").symlink_to(tmp_path / "a b")
    with (tmp_path / "large").open("wb") as large:
        large.truncate(FILE_BYTES + 1)
    paths = [path.removeprefix(f"{tmp_path}/") for path in left_behind(tmp_path)]
    assert paths == [
        "a/b/c/deep is more than 2 folders down.",
        "a b has characters beside letters, digits, '.', '_' and '-' in its name.",
        "large has 16,777,217 bytes; at most 16,777,216 come back.",
        "link is not a plain file.",
    ]


def test_more_files_than_come_back_are_counted(tmp_path: Path) -> None:
    for number in range(FILES + 1):
        (tmp_path / str(number)).touch()
    assert [*left_behind(tmp_path)] == ["There are 9 files of results, and 8 come back."]
