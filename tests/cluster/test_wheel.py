"""The wheel in an environment of its own, without the checkout: it serves and generates.

The dependencies are those of the tests' environment, seen through a ``.pth`` file. A ``.pth`` file
inside them is not read, so an editable installation of Darkroom there cannot hide that the wheel
lacks something.
"""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from serve_app.cli.serve.greeting import PROMPT
from tests.cluster.darkroom import (
    PATIENCE_S,
    ROOT,
    STOP_S,
    Darkroom,
    clean_environment,
    eventually,
    living,
)
from tests.cluster.processes import with_default_signals
from training.image.checker import read

pytestmark = pytest.mark.cluster

PACKAGES = "darkroom", "darkroom_apps", "serve_app", "deployments", "weights"
SOURCES = "pyproject.toml", "README.md", "LICENSE", "fal_plain_http.py", *PACKAGES
SAMPLE = re.compile(r'"(.+)" took [\d.]+ s: (\S+)')
OTHER_PROMPT = "a green star"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy: setuptools writes into the directory that it builds."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in SOURCES:
        path = ROOT / name
        if path.is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(path, source / name, ignore=ignored)
        else:
            shutil.copy(path, source / name)
    _run(
        *(sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index"),
        *("--wheel-dir", str(folder), str(source)),
    )
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Darkroom]:
    """Data directory and port. The test starts the command itself."""
    darkroom = Darkroom(tmp_path / "empty" / "data")
    yield darkroom
    darkroom.clear_away()


def test_the_wheel_contains_every_file_but_what_is_written_for_developers(wheel: Path) -> None:
    packed = set(zipfile.ZipFile(wheel).namelist())
    ours = {
        path.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".md"
    }
    assert ours - packed == set()
    names = {path.rpartition("/")[2] for path in packed}
    assert "fal_plain_http.py" in packed
    assert {"index.html", "models.yaml", "fal_types.json.gz", "0001_baseline.sql"} <= names
    assert any(path.startswith("deployments/demo/") for path in packed)
    assert not [path for path in packed if path.startswith(("tests/", "scripts/", "training/"))]


@pytest.mark.long
def test_the_installed_wheel_serves_in_an_empty_directory(
    wheel: Path, place: Darkroom, tmp_path: Path
) -> None:
    darkroom = _installed(wheel, tmp_path / "environment")
    empty = place.data_dir.parent
    empty.mkdir()
    environment = {k: v for k, v in clean_environment().items() if k != "PYTHONPATH"}
    environment["HOME"] = str(tmp_path)
    with place.output.open("wb") as output:
        running = subprocess.Popen(
            with_default_signals(
                *(str(darkroom), "serve", "--demo", "--sample", "--port", str(place.port)),
                *("--data-dir", str(place.data_dir)),
            ),
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=empty,
            start_new_session=True,
        )
    place.adopt(running)

    def sample() -> str:
        text = place.output.read_text(errors="replace")
        assert running.poll() is None, f"It ended:\n{text}"
        assert "failed" not in text, text
        match = SAMPLE.search(text)
        return match[1] if match else ""

    assert eventually(sample, f"there is an image; see {place.output}", PATIENCE_S) == PROMPT
    assert _seen(place.data_dir / "sample.png") == [("blue", "square"), ("red", "circle")]
    for process in place.replicas() + place.replicas("ingress"):
        assert str(ROOT) not in process.environ().get("PYTHONPATH", "")
    _run(
        *(str(darkroom), "generate", OTHER_PROMPT, "--seed", "2", "-o", "out.png"),
        *("--data-dir", str(place.data_dir)),
        env=environment,
        cwd=empty,
    )
    assert _seen(empty / "out.png") == [("green", "star")]

    started = place.leftovers()
    assert started
    running.send_signal(signal.SIGINT)
    assert running.wait(timeout=STOP_S) == 0
    assert living(started) == []
    assert place.leftovers() == []


def _installed(wheel: Path, folder: Path) -> Path:
    """The ``darkroom`` command of a new environment that has the wheel."""
    _run(sys.executable, "-m", "venv", "--without-pip", str(folder))
    python = folder / "bin" / "python"
    _run(
        *(sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps"),
        *("--no-index", str(wheel)),
    )
    purelib = _run(str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))")
    dependencies = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (Path(purelib.strip()) / "dependencies.pth").write_text("\n".join(sorted(dependencies)) + "\n")
    where = _run(
        *(str(python), "-P", "-c"),
        "import darkroom, deployments, serve_app, weights; "
        "print(*(each.__file__ for each in (darkroom, deployments, serve_app, weights)))",
    )
    assert all(path.startswith(str(folder)) for path in where.split()), where
    return folder / "bin" / "darkroom"


def _run(*command: str, **more: object) -> str:
    environment = {k: v for k, v in clean_environment().items() if k != "PYTHONPATH"}
    done = subprocess.run(
        command,
        **({"env": environment} | more),
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def _seen(image: Path) -> list[tuple[str, str]]:
    return sorted((sight.colour, sight.shape) for sight in read(Image.open(image)).sights)
