"""Reading an app before it is served, and its code as one file."""

from __future__ import annotations

import asyncio
import io
import os
import zipfile
from pathlib import Path

import pytest

from deployments.executors.code import unpack
from deployments.executors.describing import bundle
from deployments.executors.environment import Environments
from deployments.executors.python import describing
from deployments.executors.python.describing import AppClass, describe, read_source
from serve_app.domain.errors import Misconfigured
from serve_app.domain.ports import MAX_CODE_BYTES

GREETER = """\
import darkroom

class Greeter(darkroom.App):
    @darkroom.endpoint("/")
    def greet(self, name: str) -> dict[str, str]:
        return {"text": name}
"""


def write_source(folder: Path, text: str | bytes, name: str = "greeter.py") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def read(folder: Path, text: str | bytes) -> list[AppClass]:
    return list(read_source(write_source(folder, text)))


def refusal(folder: Path, text: str | bytes) -> str:
    with pytest.raises(Misconfigured) as raised:
        read(folder, text)
    return str(raised.value)


def test_apps_are_found_with_their_lines_and_requirements(tmp_path: Path) -> None:
    text = """\
    from darkroom import App
    import darkroom, other
    class First(App):
        requirements = ["numpy>=2", "pillow"]
    class Second(darkroom.App):
        pass
    class Third(First):
        pass
    class Fourth(Second):
        requirements: list[str] | None = ("a",)
    class Fifth(Fourth):
        requirements = None
    class Sixth(App):
        requirements: "annotated only"
    class Seventh(other.Thing): ...
    """
    lines = "\n".join(line.removeprefix("    ") for line in text.splitlines())
    assert read(tmp_path, lines) == [
        AppClass("First", 3, ("numpy>=2", "pillow")),
        AppClass("Second", 5, None),
        AppClass("Third", 7, ("numpy>=2", "pillow")),
        AppClass("Fourth", 9, ("a",)),
        AppClass("Fifth", 11, None),
        AppClass("Sixth", 13, None),
    ]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (
            "MORE + ['a']",
            "greeter.py:2: requirements must be a list of texts, because they",
        ),
        ("{[]: 1}", "greeter.py:2: requirements must be a list of texts, because they"),
        ("'numpy'", "greeter.py:2: requirements must be a list, such as ['numpy>=2']."),
        ("3", "greeter.py:2: requirements must be a list, such as ['numpy>=2']."),
        ("{'a': 1}", "greeter.py:2: requirements must be a list, such as ['numpy>=2']."),
        ("['a', 1]", "greeter.py:2: requirements must be texts."),
    ],
)
def test_requirements_that_cannot_be_read_are_named_with_their_line(
    tmp_path: Path, value: str, message: str
) -> None:
    assert message in refusal(tmp_path, f"class A(App):\n    requirements = {value}\n")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1\nclass A(:\n", "greeter.py:2: "),
        ("x = 1\n  y = 2\n", "greeter.py:2: unexpected indent"),
        (b"x = '\xff'\n", "greeter.py:1: "),
        ("x = '\0'\n", "null bytes"),
        ("x = " + "(" * 5000, "greeter.py"),
    ],
)
def test_a_mistake_is_named_with_its_line(tmp_path: Path, text: str | bytes, message: str) -> None:
    assert message in refusal(tmp_path, text)


def test_a_file_may_name_its_encoding(tmp_path: Path) -> None:
    latin = "# -*- coding: latin-1 -*-\nx = 'ä'\nclass A(App): ...\n".encode("latin-1")
    assert read(tmp_path, latin) == [AppClass("A", 3, None)]
    assert read(tmp_path, b"\xef\xbb\xbfclass A(App): ...\n") == [AppClass("A", 1, None)]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("darkroom.py", "has the name of the module darkroom, which it would hide"),
        ("json.py", "has the name of the module json, which it would hide"),
        ("my.app.py", "cannot be imported: rename it, without dots"),
        ("app.txt", "must be a Python file, whose name ends with .py"),
    ],
)
def test_a_file_that_is_imported_as_something_else_is_refused(
    tmp_path: Path, name: str, message: str
) -> None:
    with pytest.raises(Misconfigured, match=message):
        read_source(write_source(tmp_path, GREETER, name))


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match=r"gone.py cannot be read"):
        read_source(tmp_path / "gone.py")


# Bundles.


def names(content: bytes) -> list[str]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return archive.namelist()


def test_equal_code_makes_an_equal_file(tmp_path: Path) -> None:
    bundles: list[bytes] = []
    for number, order in enumerate((["a.py", "b.py"], ["b.py", "a.py"])):
        folder = tmp_path / str(number)
        app = write_source(folder, GREETER)
        for name in order:
            path = write_source(folder, "x = 1\n", f"lib/{name}")
            os.utime(path, (number, number))
            path.chmod(0o600 + number * 0o100)
        bundles.append(bundle(app, [folder / "lib"]))
    assert bundles[0] == bundles[1]
    assert names(bundles[0]) == ["greeter.py", "lib/a.py", "lib/b.py"]


def test_hidden_files_and_caches_are_left_out(tmp_path: Path) -> None:
    app = write_source(tmp_path, GREETER)
    for name in ("a.py", ".env", ".git/config", "__pycache__/a.pyc", "sub/.key", "sub/b.py"):
        write_source(tmp_path, "x", f"lib/{name}")
    listed = names(bundle(app, [tmp_path / "lib"]))
    assert listed == ["greeter.py", "lib/a.py", "lib/sub/b.py"]


def test_a_folder_has_its_name_however_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = write_source(tmp_path, GREETER)
    write_source(tmp_path, "x", "lib/a.py")
    monkeypatch.chdir(tmp_path / "lib")
    for spelling in (".", "../lib", "../lib/"):
        assert names(bundle(app, [Path(spelling)])) == ["greeter.py", "lib/a.py"]


def test_two_files_of_one_name_are_refused(tmp_path: Path) -> None:
    app = write_source(tmp_path, GREETER)
    other = write_source(tmp_path, "x", "other/greeter.py")
    with pytest.raises(Misconfigured, match=r"The code would have two files greeter\.py: "):
        bundle(app, [other])
    assert names(bundle(app, [app])) == ["greeter.py"]


def test_code_that_is_too_large_is_refused_before_it_is_read(tmp_path: Path) -> None:
    app = write_source(tmp_path, GREETER)
    with write_source(tmp_path, "", "lib/weights.bin").open("wb") as file:
        file.truncate(400 * MAX_CODE_BYTES)  # without blocks on the disk
    with pytest.raises(Misconfigured, match=r"6400 MiB as a zip file; at most 16 MiB.*setup\(\)"):
        bundle(app, [tmp_path / "lib"])


def test_a_bundle_can_be_unpacked(tmp_path: Path) -> None:
    app = write_source(tmp_path, GREETER)
    unpack(bundle(app, []), tmp_path / "code")
    assert (tmp_path / "code" / "greeter.py").read_text() == GREETER


# Descriptions.


async def test_an_app_is_described_in_a_process_of_its_own(tmp_path: Path) -> None:
    (app,) = read(tmp_path, GREETER)
    description = await describe(tmp_path, "greeter", app, Environments(tmp_path / "environments"))
    assert description["name"] == "greeter"
    assert [endpoint["path"] for endpoint in description["endpoints"]] == ["/"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("import nothing_like_it", "No module named 'nothing_like_it' (greeter.py, line 7)"),
        ("import os; os._exit(3)", "greeter:Greeter cannot be read: status 3"),
        (
            "import atexit; atexit.register(print, '[1]')",
            "greeter:Greeter cannot be read: status 0",
        ),
    ],
)
async def test_an_app_that_cannot_be_imported_says_why(
    tmp_path: Path, line: str, message: str
) -> None:
    (app,) = read(tmp_path, GREETER + line + "\n")
    with pytest.raises(Misconfigured) as raised:
        await describe(tmp_path, "greeter", app, Environments(tmp_path / "environments"))
    assert message in str(raised.value)


async def test_an_import_without_end_is_stopped_with_all_that_it_started(tmp_path: Path) -> None:
    script = (
        "import subprocess, sys\n"
        "subprocess.run([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
    )
    (app,) = read(tmp_path, GREETER + script)
    environments = Environments(tmp_path / "environments")
    with pytest.raises(Misconfigured, match=r"took longer than 1 s\. Do slow work in setup\(\)"):
        await describe(tmp_path, "greeter", app, environments, within_s=1.0)
    assert describing.DESCRIBE_WITHIN_S > 1.0


@pytest.mark.parametrize("detached", [False, True])
async def test_a_program_that_an_import_leaves_running_holds_nothing_up(
    tmp_path: Path, detached: bool
) -> None:
    script = f'import subprocess\nsubprocess.Popen(["sleep", "30"], start_new_session={detached})\n'
    (app,) = read(tmp_path, GREETER + script)
    environments = Environments(tmp_path / "environments")
    async with asyncio.timeout(20):
        assert (await describe(tmp_path, "greeter", app, environments))["endpoints"]


@pytest.mark.parametrize(
    "line", ["import fal", "from fal import App", "from fal.toolkit import File"]
)
def test_a_folder_with_the_name_of_an_installed_package_does_not_hide_it(
    tmp_path: Path, line: str
) -> None:
    package = tmp_path / "fal"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "house.py").touch()
    assert names(bundle(write_source(package, f"{line}\n{GREETER}"), ())) == ["greeter.py"]
    (package / "cog.yaml").write_text("predict: gone.py:Predictor\n")  # is no module
    assert names(bundle(package / "cog.yaml", ())) == ["cog.yaml"]


async def test_what_an_app_imports_of_its_package_comes_along(tmp_path: Path) -> None:
    package = tmp_path / "kit"
    inner = package / "shared"
    inner.mkdir(parents=True)
    (package / "other.py").touch()
    (package / "__init__.py").touch()
    (inner / "__init__.py").touch()
    (inner / "words.py").write_text("from kit.shared import names\nHELLO = names.HELLO\n")
    (inner / "names.py").write_text("HELLO = 'Hello'\n")
    text = GREETER + "\nfrom kit.shared.words import HELLO\n"
    content = bundle(write_source(package, text), ())
    assert names(content) == [
        "greeter.py",
        *("kit/__init__.py", "kit/shared/__init__.py", "kit/shared/names.py"),
        "kit/shared/words.py",
    ]
    unpack(content, tmp_path / "code")
    (app,) = read_source(tmp_path / "code" / "greeter.py")
    description = await describe(tmp_path / "code", "greeter", app, Environments(tmp_path / "made"))
    assert description["name"] == "greeter"

    # In a folder that is no package, nothing does; a mistake in one is named.
    (inner / "names.py").write_text("HELLO =\n")
    with pytest.raises(Misconfigured, match=r"names\.py:1: invalid syntax"):
        bundle(package / "greeter.py", ())
    (package / "__init__.py").unlink()
    assert names(bundle(package / "greeter.py", ())) == ["greeter.py"]
