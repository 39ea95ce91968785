"""The environment has the packages of the GPU machine, the archive of HEAD, and nothing else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.gpu_rehearsal.environment import Environment, link_packages, our_interpreter
from tests.gpu_rehearsal.running import Ran, Shell
from tests.gpu_rehearsal.travel import CARRIED, archive_of_head

pytestmark = pytest.mark.engine

LIMIT_S = 600.0


NEEDED_HERE = {"httpx2", "httpcore2", "truststore"}
"""Packages that huggingface-hub 2 needs. Version 1 of the GPU machine does not, and it is installed
in a rehearsal, but not here: it is downloaded."""


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Shell:
    folder = tmp_path_factory.mktemp("rehearsal")
    archive_of_head().unpack(folder / "tree")
    for name in ("site", "tmp"):
        (folder / name).mkdir()
    python = environment(folder / "environment", set(CARRIED)).python
    return Shell(folder / "tree", python, folder / "site", folder / "tmp", unshared=False)


def environment(folder: Path, beside: set[str]) -> Environment:
    built = Environment(folder, our_interpreter())
    built.build(beside)
    return built


def run(shell: Shell, *words: str) -> Ran:
    return shell.run(words, LIMIT_S, lambda _: None)


@pytest.mark.long
@pytest.mark.parametrize("name", ["ray", "pydantic", "fastapi", "httpx2"])
def test_what_the_machine_lacks_is_not_imported(shell: Shell, name: str) -> None:
    error = f"ModuleNotFoundError: not on the GPU machine: {name}\n"
    assert run(shell, "-c", f"import {name}").printed.endswith(error)
    assert run(shell, "-c", f"import {name}.part").printed.endswith(error)


@pytest.mark.long
def test_what_is_missing_only_here_has_another_message(shell: Shell) -> None:
    error = "ModuleNotFoundError: on the GPU machine, but not installed here: jax\n"
    assert run(shell, "-c", "import jax").printed.endswith(error)


def test_a_child_process_lacks_the_same(shell: Shell) -> None:
    command = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import ray'])"
    assert "not on the GPU machine: ray" in run(shell, "-c", command).printed


LOOKED_FOR = """
from importlib.metadata import entry_points, distributions
from importlib.util import find_spec
import numpy, yaml, google.protobuf, xml.dom
assert find_spec("ray") is None and find_spec("google.rpc") is None
names = {each.name for each in distributions()}
assert "numpy" in names and not {"ray", "darkroom-serve", "pytest-asyncio"} & names, names
assert "pytest_asyncio.plugin" not in {each.value for each in entry_points(group="pytest11")}
"""


def test_a_package_that_is_only_looked_for_is_not_found(shell: Shell) -> None:
    ran = run(shell, "-c", LOOKED_FOR)
    assert ran.status == 0, ran.printed


def test_the_projects_modules_are_those_of_the_archive(shell: Shell) -> None:
    printed = run(shell, "-c", "import serve_app; print(serve_app.__file__)").printed
    assert Path(printed.strip()).is_relative_to(shell.tree)
    # -I leaves the working directory out: an installation would be found then.
    error = "ModuleNotFoundError: not on the GPU machine: serve_app\n"
    assert run(shell, "-I", "-c", "import serve_app").printed.endswith(error)


PACKAGES = """
from importlib.util import find_spec
import benchmarks.gpu.__main__
from benchmarks.gpu.section import sections
print({name for each in sections() for name in each.needs if find_spec(name) is None})
"""


def test_the_benchmark_starts_and_finds_the_packages_of_its_sections(shell: Shell) -> None:
    ran = run(shell, "-c", PACKAGES)
    assert (ran.status, ran.printed) == (0, "set()\n")


MODULES = """
from importlib import import_module
from pkgutil import iter_modules
import benchmarks.gpu
for each in iter_modules(benchmarks.gpu.__path__):
    import_module(f"benchmarks.gpu.{each.name}")
"""


@pytest.mark.long  # 20 s of CPU; every rehearsal collects and runs them too
def test_the_sections_are_imported_and_the_tests_for_a_gpu_collected(
    shell: Shell, tmp_path: Path
) -> None:
    with_hub = environment(tmp_path / "environment", {*CARRIED, *NEEDED_HERE})
    shell = replace(shell, python=with_hub.python)
    ran = run(shell, "-c", MODULES)
    assert ran.status == 0, ran.printed
    command = ["-m", "pytest", "-c", "/dev/null", "--noconftest", "-p", "no:cacheprovider"]
    ran = run(shell, *command, "tests/gpu", "--collect-only", "-q")
    assert ran.status == 0, ran.printed
    assert "tests collected" in ran.printed


def test_a_folder_that_packages_share_has_the_files_of_those_that_are_linked(
    tmp_path: Path,
) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    target.mkdir()
    for name in ("there", "absent"):
        module = source / "shared" / f"{name}.py"
        module.parent.mkdir(parents=True, exist_ok=True)
        module.touch()
        information = source / f"{name}-1.0.dist-info"
        information.mkdir()
        (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0")
        files = [f"shared/{name}.py", f"{information.name}/METADATA", f"../bin/{name}"]
        (information / "RECORD").write_text("".join(f"{file},,\n" for file in files))
    link_packages(source, target, {"there"})
    assert {entry.name for entry in target.iterdir()} == {"shared", "there-1.0.dist-info"}
    assert [entry.name for entry in (target / "shared").iterdir()] == ["there.py"]
