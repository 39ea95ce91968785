"""Environments of apps, built from a wheel that the test makes, without an index."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from importlib.metadata import distribution
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

from deployments.executors import environment
from deployments.executors.environment import (
    COMPLETE,
    Environments,
    commands,
    environment_key,
    pip_settings,
)
from serve_app.domain.errors import AppNotStarted
from weights.lock import RepositoryLock

NEEDED = ("annotated-types", "pydantic", "pydantic-core", "typing-extensions", "typing-inspection")
"""What ``darkroom`` needs, which is packed again from this environment."""


def wheel(
    folder: Path, name: str, files: dict[str, bytes], version: str = "1.0", needs: str = ""
) -> Path:
    """Write a wheel with ``files``."""
    path = folder / f"{name}-{version}-py3-none-any.whl"
    info = f"{name}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}"
    about = {
        f"{info}/METADATA": metadata.encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    every = {**files, **about}
    record = "".join(f"{entry},,\n" for entry in (*every, f"{info}/RECORD"))
    with zipfile.ZipFile(path, "w") as archive:
        for member, content in {**every, f"{info}/RECORD": record.encode()}.items():
            archive.writestr(member, content)
    return path


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with a tiny package, and what each environment has besides."""
    folder = tmp_path_factory.mktemp("wheels")
    wheel(folder, "tiny", {"tiny.py": b"VALUE = 7\n"})
    for name in NEEDED:
        installed = distribution(name)
        files = {
            str(file): Path(str(file.locate())).read_bytes()
            for file in installed.files or ()
            if ".." not in file.parts
            and not file.name.endswith(".pyc")
            and not file.parts[0].endswith(".dist-info")
        }
        needs = [
            requirement for requirement in installed.requires or () if "extra" not in requirement
        ]
        listed = "".join(f"Requires-Dist: {need}\n" for need in needs)
        wheel(folder, name.replace("-", "_"), files, installed.version, listed)
    return folder


@pytest.fixture
def settings(wheels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "cache"))
    return {"no-index": "true", "find-links": str(wheels)}


def value_of(python: Path) -> str:
    code = "import tiny, darkroom; print(tiny.VALUE, darkroom.__file__)"
    done = subprocess.run(
        [python, "-c", code], check=True, capture_output=True, text=True, env={}, cwd=python.parent
    )
    return done.stdout


async def test_an_app_without_requirements_runs_in_our_own_environment(tmp_path: Path) -> None:
    assert await Environments(tmp_path).python(None) == Path(sys.executable)


async def test_an_environment_is_built_once_without_an_index(
    tmp_path: Path, settings: dict[str, str]
) -> None:
    builds: list[str] = []
    environments = Environments(tmp_path / "environments", settings)
    python = await environments.python(["tiny==1.0"], lambda: builds.append("first"))
    number, _, place = (await asyncio.to_thread(value_of, python)).strip().partition(" ")
    assert number == "7"
    assert Path(place).is_relative_to(python.parents[1])  # its own copy
    again = await environments.python(["tiny==1.0"], lambda: builds.append("second"))
    assert (again, builds) == (python, ["first"])

    # An interrupted build is repeated, and nothing of it is left.
    folder = python.parents[1]
    (folder / COMPLETE).unlink()
    (folder / "left.txt").touch()
    assert await environments.python(["tiny==1.0"], lambda: builds.append("third")) == python
    assert builds == ["first", "third"]
    assert not await asyncio.to_thread((folder / "left.txt").exists)


def build(directory: str, settings: dict[str, str], go: Any) -> None:
    async def make() -> None:
        await Environments(Path(directory), settings).python(["tiny"])

    go.wait(60)
    asyncio.run(make())


def test_two_processes_at_once_build_one_environment(
    tmp_path: Path, settings: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    counter = tmp_path / "uv"
    real = environment.uv_program()
    counter.write_text(f'#!/bin/sh\necho "$1" >> {tmp_path}/calls\nexec {real} "$@"\n')
    counter.chmod(0o755)
    monkeypatch.setattr(environment, "uv_program", lambda: str(counter))
    context = get_context("fork")
    go = context.Barrier(2)
    directory = str(tmp_path / "environments")
    processes = [context.Process(target=build, args=(directory, settings, go)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [builder.exitcode for builder in processes] == [0, 0]
    assert (tmp_path / "calls").read_text().split() == ["venv", "pip"]


async def test_a_requirement_that_is_not_there_is_an_error_with_the_installers_words(
    tmp_path: Path, settings: dict[str, str]
) -> None:
    environments = Environments(tmp_path / "environments", settings)
    with pytest.raises(AppNotStarted) as raised:
        await environments.python(["nothing-like-it==4"])
    message = str(raised.value)
    assert message.startswith("The requirements nothing-like-it==4 cannot be installed: ")
    assert "nothing-like-it was not found" in message
    # It is no environment, and the next attempt tries again.
    with pytest.raises(AppNotStarted):
        await environments.python(["nothing-like-it==4"])


async def test_a_wait_that_is_cancelled_does_not_take_the_lock_later(
    tmp_path: Path, settings: dict[str, str]
) -> None:
    path = (tmp_path / environment_key(["tiny"])).with_suffix(".lock")
    other = RepositoryLock(path)
    other.take()
    waiting = asyncio.create_task(Environments(tmp_path, settings).python(["tiny"]))
    began = asyncio.Event()
    asyncio.get_running_loop().call_later(0.3, began.set)
    await began.wait()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    other.release()
    # Whatever the thread of the cancelled wait does, others get the lock.
    async with asyncio.timeout(60):
        await asyncio.to_thread(other.take)
        other.release()
        python = await Environments(tmp_path, settings).python(["tiny"])
    assert python.name == "python"


async def test_an_installer_that_is_cancelled_ends_with_its_children(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = tmp_path / "uv"
    slow.write_text(f"#!/bin/sh\nsleep 600 &\necho $! > {tmp_path}/child\nwait\n")
    slow.chmod(0o755)
    monkeypatch.setattr(environment, "uv_program", lambda: str(slow))
    building = asyncio.create_task(Environments(tmp_path / "e", {}).python(["tiny"]))
    child = tmp_path / "child"
    async with asyncio.timeout(60):
        await asyncio.to_thread(until, lambda: child.is_file() and child.read_text().endswith("\n"))
        building.cancel()
        with pytest.raises(asyncio.CancelledError):
            await building
        number = int((await asyncio.to_thread(child.read_text)).strip())
        await asyncio.to_thread(until, lambda: not alive(number))


async def test_a_build_that_does_not_end_is_ended_and_others_may_try(
    tmp_path: Path, settings: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    stuck = tmp_path / "uv"
    stuck.write_text(f"#!/bin/sh\nsleep 600 &\necho $! > {tmp_path}/child\nwait\n")
    stuck.chmod(0o755)
    child = tmp_path / "child"
    with monkeypatch.context() as patched:
        patched.setattr(environment, "uv_program", lambda: str(stuck))
        environments = Environments(tmp_path / "e", settings, within_s=2.0)
        with pytest.raises(AppNotStarted) as raised:
            await environments.python(["tiny"])
    assert "The requirements tiny were not installed within 2 s" in raised.value.message
    if child.is_file():  # else it was ended before it did anything
        number = int((await asyncio.to_thread(child.read_text)).strip() or 0)
        await asyncio.to_thread(until, lambda: not alive(number))
    python = await Environments(tmp_path / "e", settings).python(["tiny"])
    assert python.is_file()


def until(holds: Callable[[], bool]) -> None:
    while not holds():
        time.sleep(0.02)


def alive(number: int) -> bool:
    """True unless the process has ended; one that waits for its parent has."""
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


async def test_without_uv_an_environment_is_built_by_venv_and_pip(
    tmp_path: Path, wheels: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environment, "uv_program", lambda: None)
    monkeypatch.setattr(environment, "BASE", ())  # pip takes a second for each package
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    python = await Environments(tmp_path).python(["tiny"])
    code = [str(python), "-c", "import tiny; print(tiny.VALUE)"]
    assert await asyncio.to_thread(subprocess.check_output, code) == b"7\n"


async def test_an_installer_gets_no_secrets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = tmp_path / "uv"
    shown.write_text(f"#!/bin/sh\nenv > {tmp_path}/variables\nexit 1\n")
    shown.chmod(0o755)
    monkeypatch.setattr(environment, "uv_program", lambda: str(shown))
    secrets = ("DARKROOM_SECRET", "AWS_SECRET_ACCESS_KEY", "HF_TOKEN", "FAL_KEY", "OPENAI_API_KEY")
    for name in (*secrets, "REPLICATE_API_TOKEN", "GITHUB_TOKEN", "UV_PUBLISH_TOKEN"):
        monkeypatch.setenv(name, "hidden")
    monkeypatch.setenv("PIP_TIMEOUT", "17")
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    with pytest.raises(AppNotStarted):
        await Environments(tmp_path / "e", {}).python(["tiny"])
    variables = await asyncio.to_thread((tmp_path / "variables").read_text)
    assert "hidden" not in variables
    assert "PIP_TIMEOUT=17" in variables
    assert "https_proxy=http://127.0.0.1:9" in variables


async def test_it_is_built_where_the_home_directory_cannot_be_written(
    tmp_path: Path, settings: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("UV_CACHE_DIR")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", "/proc/none")
    python = await Environments(tmp_path / "environments", settings).python(["tiny"])
    assert (await asyncio.to_thread(value_of, python)).startswith("7 ")


@pytest.mark.parametrize("name", ["PIP_TARGET", "PIP_PREFIX", "PIP_ROOT", "PIP_USER"])
async def test_its_packages_are_in_it_where_the_user_s_own_go_elsewhere(
    name: str, tmp_path: Path, wheels: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pip.conf").write_text("[install]\nuser = true\n")
    monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "pip.conf"))
    monkeypatch.setenv(name, "1" if name == "PIP_USER" else str(tmp_path / "elsewhere"))
    await test_without_uv_an_environment_is_built_by_venv_and_pip(tmp_path, wheels, monkeypatch)


@pytest.mark.parametrize("name", ["target", "prefix", "root", "dry-run"])
async def test_its_packages_are_in_it_where_a_file_of_pip_says_another_place(
    name: str, tmp_path: Path, wheels: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = "true" if name == "dry-run" else tmp_path / "elsewhere"
    # Its other settings count: the index of a company may be there alone.
    indexes = f"[global]\nno-index = true\nfind-links = {wheels}\n"
    (tmp_path / "pip.conf").write_text(f"{indexes}[install]\n{name} = {place}\n")
    monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "pip.conf"))
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    monkeypatch.setattr(environment, "uv_program", lambda: None)
    monkeypatch.setattr(environment, "BASE", ())
    python = await Environments(tmp_path / "environments").python(["tiny"])
    code = [str(python), "-c", "import tiny; print(tiny.VALUE)"]
    assert await asyncio.to_thread(subprocess.check_output, code) == b"7\n"
    assert not (tmp_path / "elsewhere").exists()


# Settings of pip for uv.


def options(**settings: str) -> list[str]:
    """Options that uv gets for settings of pip."""
    flags = {name.replace("_", "-"): value for name, value in settings.items()}
    _, install = commands(Path("/e"), Path("/e/bin/python"), flags)
    return list(install[install.index("/e/bin/python") + 1 :])


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, []),
        ({"index_url": "https://a/simple"}, ["--default-index", "https://a/simple"]),
        ({"find_links": "/a\n/b"}, ["--find-links", "/a", "--find-links", "/b"]),
        (
            {"extra_index_url": "https://b https://c"},
            [
                *("--index", "https://b", "--index", "https://c"),
                *("--index-strategy", "unsafe-best-match"),
            ],
        ),
        ({"no_index": "true"}, ["--no-index"]),
        ({"no_index": "no"}, []),
        ({"trusted_host": "a b"}, ["--allow-insecure-host", "a", "--allow-insecure-host", "b"]),
        ({"constraint": "/c.txt"}, ["--constraint", "/c.txt"]),
        ({"timeout": "3"}, []),
    ],
)
def test_settings_of_pip_are_options_of_uv(settings: dict[str, str], expected: list[str]) -> None:
    assert options(**settings) == expected


@pytest.mark.long
def test_the_settings_of_pip_are_those_of_its_file_and_its_variables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "pip.conf"
    file.write_text(
        "[install]\nfind-links = /install\nno-index = yes\n"
        "[global]\nfind-links = /global\nindex-url = https://a\n[download]\ncert = /d\n"
    )
    for name in [variable for variable in os.environ if variable.startswith("PIP_")]:  # noqa: TID251
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", str(file))
    pip_options = pip_settings()
    assert pip_options["find-links"] == "/install"
    assert (pip_options["index-url"], pip_options["no-index"]) == ("https://a", "yes")
    assert pip_options.get("cert") != "/d"
    monkeypatch.setenv("PIP_FIND_LINKS", "/variable")
    assert pip_settings()["find-links"] == "/variable"


def test_what_decides_about_an_environment_is_in_its_name() -> None:
    names = {environment_key(packages) for packages in ([], ["a"], ["a", "b"], ["b", "a"])}
    assert len(names) == 4
    assert environment_key(("a", "b")) == environment_key(["a", "b"])
