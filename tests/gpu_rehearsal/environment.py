"""Python environment with the packages of the GPU machine only.

The packages are links to installed ones: what is not linked is not there, neither for an import nor
for ``importlib.metadata`` and the plugins of pytest, and also in child processes.
"""

from __future__ import annotations

import csv
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Set
from dataclasses import dataclass
from importlib.metadata import Distribution, distributions
from pathlib import Path, PurePosixPath

from packaging.utils import canonicalize_name

from tests.gpu_rehearsal.absent import names_of

HERE = Path(__file__).parent
PACKAGES = HERE / "packages.txt"
VERSION = (3, 12)
"""Python there."""

REPLACED = "huggingface-hub", "sentencepiece", "tokenizers", "transformers"
"""Packages that are installed in the version of the GPU machine, where it is another one than here.
torch and numpy are not: the one is too large, and the other one's version has no Python 3.11."""

QUIET = "-qq", "--disable-pip-version-check", "--root-user-action=ignore"

IMPORT_ABSENT = "import absent; absent.install()\n"


@dataclass(frozen=True)
class Interpreter:
    """A Python, and the folder of the packages that it imports."""

    python: Path
    version: tuple[int, int]
    packages: Path

    @property
    def is_the_machines(self) -> bool:
        return self.version == VERSION


ASK = """
import sys, sysconfig
print(*sys.version_info[:2], sysconfig.get_path("platlib"), sys.executable, sep="\\n")
"""


def interpreter_of(python: Path | str) -> Interpreter | None:
    """The interpreter of a command; None where it does not start, as a shim of pyenv may."""
    done = subprocess.run([python, "-c", ASK], capture_output=True, text=True, check=False)
    if done.returncode:
        return None
    major, minor, packages, executable = done.stdout.splitlines()
    return Interpreter(Path(executable), (int(major), int(minor)), Path(packages))


def machines_pythons(path: str) -> list[Interpreter]:
    """Interpreters of the GPU machine's version in the folders of ``PATH``, and of pyenv."""
    version = ".".join(map(str, VERSION))
    interpreters = dict[Path, Interpreter]()
    for folder in map(Path, path.split(":")):
        for bin_folder in (folder, *folder.parent.glob(f"versions/{version}.*/bin")):
            python = bin_folder / f"python{version}"
            if python.is_file() and (interpreter := interpreter_of(python)):
                interpreters.setdefault(interpreter.python, interpreter)
    return [*interpreters.values()]


def imports_torch(interpreter: Interpreter) -> bool:
    command = [interpreter.python, "-c", "import torch"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def our_interpreter() -> Interpreter:
    interpreter = interpreter_of(sys.executable)
    assert interpreter is not None
    return interpreter


def versions_there() -> dict[str, str]:
    lines = (line.partition("==") for line in PACKAGES.read_text(encoding="utf-8").splitlines())
    return {name: version for name, _, version in lines if version}


def versions_here(packages: Path) -> dict[str, str]:
    return {
        _name(distribution): distribution.version
        for distribution in distributions(path=[str(packages)])
    }


def other_versions(packages: Path) -> dict[str, tuple[str, str]]:
    """Versions here and there of the packages where they are known to differ."""
    here = versions_here(packages)
    return {
        name: (here[name], there)
        for name, there in versions_there().items()
        if name in here and here[name].partition("+")[0] != there
    }


@dataclass(frozen=True)
class Environment:
    """A virtual environment in ``folder``."""

    folder: Path
    source: Interpreter

    @property
    def python(self) -> Path:
        return self.folder / "bin" / "python"

    @property
    def packages(self) -> Path:
        return next(self.folder.glob("lib/python*/site-packages"))

    def build(self, beside: Set[str] = frozenset(), replaced: Iterable[str] = ()) -> None:
        """Link the packages of the GPU machine and those ``beside`` that are installed in the
        source, and install those ``replaced`` (``NAME==VERSION``) from the package index."""
        command = [self.source.python, "-m", "venv", "--without-pip", self.folder]
        subprocess.run(command, check=True)
        self._install_instead([*replaced])
        names = names_of(PACKAGES.read_text(encoding="utf-8")) | beside
        link_packages(
            self.source.packages, self.packages, names - set(versions_here(self.packages))
        )
        shutil.copyfile(PACKAGES, self.packages / PACKAGES.name)
        shutil.copyfile(HERE / "absent.py", self.packages / "absent.py")
        (self.packages / "absent.pth").write_text(IMPORT_ABSENT, encoding="utf-8")

    def _install_instead(self, wanted: list[str]) -> None:
        if not wanted:
            return
        command = [self.source.python, "-m", "pip", "install", *QUIET, "--no-deps"]
        command += ["--no-compile", "--only-binary=:all:"]
        done = subprocess.run([*command, "--target", self.packages, *wanted], check=False)
        if done.returncode:
            raise SystemExit("Packages could not be installed. See pip's message above.")


def replacements(packages: Path) -> list[str]:
    versions = other_versions(packages)
    return [f"{name}=={versions[name][1]}" for name in REPLACED if name in versions]


def install_wheels(python: Path, wheels: Iterable[Path], folder: Path) -> None:
    """Install as the command on the GPU machine does, into a folder for ``PYTHONPATH``."""
    command = [python, "-m", "pip", "install", *QUIET, "--no-index", "--no-deps", "--no-compile"]
    command += ["--target", folder, *wheels]
    if subprocess.run(command, check=False).returncode:
        raise SystemExit(f"{python} could not install the wheels. See pip's message above.")


def link_packages(source: Path, target: Path, names: Set[str]) -> None:
    """Link the files of the named packages of a folder, and nothing else: a folder in which other
    packages have files too, such as ``google``, is made anew."""
    included, others = list[PurePosixPath](), list[PurePosixPath]()
    for distribution in distributions(path=[str(source)]):
        (included if _name(distribution) in names else others).extend(_files(distribution))
    _link(source, target, included, others)


def _link(
    source: Path, target: Path, wanted: Iterable[PurePosixPath], others: Iterable[PurePosixPath]
) -> None:
    ours, theirs = _by_first_part(wanted), _by_first_part(others)
    for name, below in ours.items():
        if name in theirs and (source / name).is_dir():
            (target / name).mkdir()
            _link(source / name, target / name, below, theirs[name])
        elif not (target / name).exists():
            (target / name).symlink_to(source / name)


def _by_first_part(paths: Iterable[PurePosixPath]) -> dict[str, list[PurePosixPath]]:
    parts = defaultdict[str, list[PurePosixPath]](list)
    for path in paths:
        parts[path.parts[0]].append(PurePosixPath(*path.parts[1:]))
    return parts


def _files(package: Distribution) -> Iterator[PurePosixPath]:
    """Files of a package in the folder of packages: neither programs nor compiled modules."""
    for row in csv.reader((package.read_text("RECORD") or "").splitlines()):
        path = PurePosixPath(row[0])
        if path.parts[0] not in {"..", "__pycache__"} and not path.is_absolute():
            yield path


def _name(package: Distribution) -> str:
    return canonicalize_name(package.name)
