"""The files of a release: sdist, wheel, SBOM, lock file, and their hashes.

    scripts/release [--commit REF] [--out FOLDER]      build them, by default of HEAD into dist/
    scripts/release --verify FOLDER [--commit REF]     build them again, and compare

The same commit gives the same bytes: files are taken from the commit and not from the work tree,
with its time, one owner and one mode, and are built by one version of setuptools.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from packaging.requirements import Requirement

from scripts.supply_chain.packages import ROOT

SUMS = "SHA256SUMS"
BESIDE = "sbom.cdx.json", "requirements-image.txt"
"""Files of the commit that a release has beside what is built."""


def build(source: Path, out: Path, epoch: int) -> None:
    """Write sdist and wheel of the project at ``source`` to ``out``. ``epoch``: time of all files,
    in seconds. Changes the times and modes in ``source``."""
    _check_builder(source)
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        _level(source, epoch)
        _run_builder("--sdist", source, scratch / "sdist", epoch)
        (built,) = (scratch / "sdist").glob("*.tar.gz")
        sdist = out / built.name
        sdist.write_bytes(normal_sdist(built, epoch))
        with tarfile.open(sdist) as archive:
            archive.extractall(scratch / "tree", filter="data")
        (tree,) = (scratch / "tree").iterdir()
        _level(tree, epoch)
        _run_builder("--wheel", tree, scratch / "wheel", epoch)
        (wheel,) = (scratch / "wheel").glob("*.whl")
        shutil.copyfile(wheel, out / wheel.name)


def normal_sdist(sdist: Path, epoch: int) -> bytes:
    """``sdist`` with sorted entries of one owner, one time and one mode, and no time of packing."""
    packed = io.BytesIO()
    with (
        tarfile.open(sdist) as old,
        gzip.GzipFile(filename="", mode="wb", fileobj=packed, mtime=0) as compressed,
        tarfile.open(fileobj=compressed, mode="w", format=tarfile.PAX_FORMAT) as new,
    ):
        for entry in sorted(old.getmembers(), key=lambda member: member.name):
            plain = tarfile.TarInfo(entry.name)
            plain.type, plain.size, plain.mtime = entry.type, entry.size, epoch
            plain.mode = 0o755 if entry.isdir() else 0o644
            new.addfile(plain, old.extractfile(entry) if entry.isfile() else None)
    return packed.getvalue()


def _check_builder(source: Path) -> None:
    """Refuse another version of setuptools than the project names: it could build other bytes."""
    project = tomllib.loads((source / "pyproject.toml").read_text(encoding="utf-8"))
    for requirement in map(Requirement, project["build-system"]["requires"]):
        if not requirement.specifier.contains(version(requirement.name)):
            raise SystemExit(
                f"{requirement.name} {version(requirement.name)} is installed, but pyproject.toml "
                f"builds with {requirement}. Run scripts/test once to install the pinned versions."
            )


def _level(folder: Path, epoch: int) -> None:
    """Give all files one time and one mode."""
    for path in [folder, *folder.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)
        os.utime(path, (epoch, epoch))


def _run_builder(what: str, source: Path, out: Path, epoch: int) -> None:
    done = subprocess.run(  # noqa: S603 - our own words
        [
            *(sys.executable, "-m", "uv", "build", what, "--no-build-isolation", "--offline"),
            *("--quiet", "--python", sys.executable, "--out-dir", str(out), str(source)),
        ],
        env={"PATH": "/usr/bin:/bin", "SOURCE_DATE_EPOCH": str(epoch), "TZ": "UTC", "LC_ALL": "C"},
        umask=0o022,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"The release could not be built:\n{done.stdout}{done.stderr}")


def hash_of(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def sums_of(folder: Path) -> str:
    """Content of ``SHA256SUMS``, as ``sha256sum --check`` reads it."""
    files = sorted(path for path in folder.iterdir() if path.is_file() and path.name != SUMS)
    return "".join(f"{hash_of(path)}  {path.name}\n" for path in files)


def _git(*words: str) -> bytes:
    return subprocess.run(  # noqa: S603
        ["git", "-C", ROOT, *words],  # noqa: S607 - the one of the developer
        check=True,
        stdout=subprocess.PIPE,
    ).stdout


def release(commit: str, out: Path) -> None:
    """Write all files of the release of ``commit`` to ``out``, an empty folder."""
    epoch = int(_git("log", "-1", "--format=%ct", f"{commit}^{{commit}}"))
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "source"
        with tarfile.open(fileobj=io.BytesIO(_git("archive", commit))) as archive:
            archive.extractall(source, filter="data")
        for name in BESIDE:
            if not (source / name).is_file():
                raise SystemExit(f"{commit} has no {name}: it is older than such releases.")
            shutil.copyfile(source / name, out / name)
        build(source, out, epoch)
    (out / SUMS).write_text(sums_of(out), encoding="utf-8")


def differences(published: Path, again: Path) -> list[str]:
    """A sentence for each file of ``published`` that is missing, damaged, or differs from
    ``again``."""
    if not (published / SUMS).is_file():
        return [f"{published} has no {SUMS}. Download it together with the files."]
    problems: list[str] = []
    stated = dict(
        reversed(line.split("  ", 1)) for line in (published / SUMS).read_text().splitlines()
    )
    built = {path.name: hash_of(path) for path in again.iterdir() if path.name != SUMS}
    for name in sorted(stated.keys() | built.keys()):
        if name not in stated:
            problems.append(f"{SUMS} does not have {name}, which the commit gives.")
        elif name not in built:
            problems.append(f"{name} is in {SUMS}, but the commit does not give such a file.")
        elif stated[name] != built[name]:
            problems.append(f"{name} is not what the commit gives: its hash is {built[name]}.")
        elif not (published / name).is_file():
            problems.append(f"{name} is missing in {published}.")
        elif hash_of(published / name) != stated[name]:
            problems.append(f"{name} is damaged: its hash is not the one in {SUMS}.")
    return problems


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="scripts/release")
    parser.add_argument("--commit", default="HEAD", help="what to build; default: HEAD")
    parser.add_argument("--out", type=Path, default=ROOT / "dist", help="default: dist")
    parser.add_argument("--verify", type=Path, metavar="FOLDER", help="compare its files")
    options = parser.parse_args(words)
    if options.verify is not None:
        with tempfile.TemporaryDirectory() as folder:
            release(options.commit, Path(folder))
            problems = differences(options.verify, Path(folder))
        for problem in problems:
            print(problem, file=sys.stderr)
        print(f"{options.verify}: {len(problems)} problems found")
        return 1 if problems else 0
    options.out.mkdir(parents=True, exist_ok=True)
    if any(options.out.iterdir()):
        raise SystemExit(f"{options.out} is not empty. Remove it, or name another folder by --out.")
    release(options.commit, options.out)
    print((options.out / SUMS).read_text(), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
