"""Releases: the same commit gives the same bytes, and a user can tell."""

from __future__ import annotations

import os
import shutil
import subprocess
import tarfile
import zipfile
from pathlib import Path

import pytest

from scripts.supply_chain.packages import ROOT
from scripts.supply_chain.release import SUMS, build, differences, sums_of

EPOCH = 1_790_000_000
PARTS = "darkroom", "weights", "pyproject.toml", "README.md", "LICENSE"
"""What is built here. The demo models would take most of the time."""


def copy_source(folder: Path) -> Path:
    source = folder / "source"
    source.mkdir(parents=True)
    for part in PARTS:
        if (ROOT / part).is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / part, source / part, ignore=ignored)
        else:
            shutil.copyfile(ROOT / part, source / part)
    return source


@pytest.fixture(scope="module")
def built_twice(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two builds, from folders that differ in their path, the times and the modes of their files,
    and with another umask."""
    outs = (tmp_path_factory.mktemp("first"), tmp_path_factory.mktemp("second"))
    for number, (out, umask) in enumerate(zip(outs, (0o022, 0o077), strict=True)):
        source = copy_source(tmp_path_factory.mktemp(f"a{number}") / ("deep/" * number))
        if number:
            for path in source.rglob("*.py"):
                path.chmod(0o700)
                os.utime(path, (1e9, 1e9))
        before = os.umask(umask)
        try:
            build(source, out, EPOCH)
        finally:
            os.umask(before)
    return outs


@pytest.mark.long
def test_two_builds_are_equal_bytes(built_twice: tuple[Path, Path]) -> None:
    first, second = (
        {path.name: path.read_bytes() for path in out.iterdir()} for out in built_twice
    )
    assert sorted(Path(name).suffix for name in first) == [".gz", ".whl"]
    assert first == second


@pytest.mark.long
def test_the_files_have_the_time_of_the_commit_and_no_owner(
    built_twice: tuple[Path, Path],
) -> None:
    (sdist,) = built_twice[0].glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        members = archive.getmembers()
        assert any(member.name.endswith("/darkroom/app.py") for member in members)
        assert {(member.mtime, member.uid, member.uname) for member in members} == {(EPOCH, 0, "")}
    (wheel,) = built_twice[0].glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        assert "darkroom/app.py" in archive.namelist()
        assert len({member.date_time for member in archive.infolist()}) == 1


def test_another_version_of_the_builder_is_refused(tmp_path: Path) -> None:
    source = copy_source(tmp_path)
    file = source / "pyproject.toml"
    file.write_text(
        file.read_text().replace('requires = ["setuptools==', 'requires = ["setuptools==1')
    )
    with pytest.raises(SystemExit, match="is installed, but pyproject"):
        build(source, tmp_path, EPOCH)


@pytest.fixture
def release_folders(tmp_path: Path) -> tuple[Path, Path]:
    """A release as a user downloads it, and the same as built again."""
    again = tmp_path / "again"
    again.mkdir()
    (again / "darkroom.whl").write_bytes(b"wheel")
    (again / "darkroom.tar.gz").write_bytes(b"sdist")
    published = tmp_path / "given"
    shutil.copytree(again, published)
    (published / SUMS).write_text(sums_of(published))
    return published, again


def test_the_hashes_are_in_the_format_of_sha256sum(release_folders: tuple[Path, Path]) -> None:
    published, _ = release_folders
    done = subprocess.run(
        ["sha256sum", "--check", SUMS], cwd=published, capture_output=True, check=True
    )
    assert done.stdout.decode().split("\n")[:2] == ["darkroom.tar.gz: OK", "darkroom.whl: OK"]


def test_a_release_that_the_commit_gives_has_no_differences(
    release_folders: tuple[Path, Path],
) -> None:
    assert differences(*release_folders) == []


def test_files_that_were_changed_are_found(release_folders: tuple[Path, Path]) -> None:
    published, again = release_folders
    (published / "darkroom.whl").write_bytes(b"other")
    (published / "darkroom.tar.gz").unlink()
    assert differences(published, again) == [
        f"darkroom.tar.gz is missing in {published}.",
        f"darkroom.whl is damaged: its hash is not the one in {SUMS}.",
    ]
    (published / "darkroom.tar.gz").write_bytes(b"added code")
    (published / SUMS).write_text(sums_of(published))  # by someone who can change both
    assert [difference.partition(":")[0] for difference in differences(published, again)] == [
        "darkroom.tar.gz is not what the commit gives",
        "darkroom.whl is not what the commit gives",
    ]


def test_files_that_only_one_side_has_are_found(release_folders: tuple[Path, Path]) -> None:
    published, again = release_folders
    (again / "darkroom.whl").rename(again / "darkroom-2.whl")
    assert differences(published, again) == [
        f"{SUMS} does not have darkroom-2.whl, which the commit gives.",
        f"darkroom.whl is in {SUMS}, but the commit does not give such a file.",
    ]
    (published / SUMS).unlink()
    assert differences(published, again) == [
        f"{published} has no {SUMS}. Download it together with the files."
    ]
