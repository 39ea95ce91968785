"""Apps for fal, read without importing them."""

from __future__ import annotations

from pathlib import Path

import pytest

from deployments.executors.describing import bundle
from deployments.executors.python.describing import AppClass, read_source
from deployments.executors.python.fal.source import files_beside
from serve_app.domain.errors import Misconfigured


def write_source(folder: Path, text: str, name: str = "cat.py") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    "text",
    [
        "import fal\nclass Cat(fal.App):\n    pass",
        "import fal as f\nclass Cat(f.App, keep_alive=60):\n    pass",
        "from fal import App\nclass Cat(App):\n    pass",
        "from fal.app import App as Base\nclass Cat(Base):\n    pass",
        "import fal.app\nclass Cat(fal.app.App):\n    pass",
    ],
)
def test_an_app_for_fal_is_found_however_it_imports_fal(tmp_path: Path, text: str) -> None:
    assert list(read_source(write_source(tmp_path, text))) == [AppClass("Cat", 2, (), is_fal=True)]


def test_an_app_of_darkroom_in_a_file_that_knows_fal_stays_one(tmp_path: Path) -> None:
    text = "import darkroom, fal\nclass A(darkroom.App):\n    pass\nclass B(fal.App):\n    pass\n"
    apps = read_source(write_source(tmp_path, text + "class C(B):\n    pass\n"))
    assert [(app.name, app.is_fal) for app in apps] == [("A", False), ("B", True), ("C", True)]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("['numpy', '--pre']", ("numpy", "--pre")),
        ("[['torch'], ['flash-attn']]", (["torch"], ["flash-attn"])),
        ("NEEDED", ("einops",)),
        ("[*NEEDED, 'numpy']", ()),  # its worker tells
    ],
)
def test_requirements_are_a_guess_that_the_import_corrects(
    tmp_path: Path, line: str, expected: tuple[object, ...]
) -> None:
    text = f"import fal\nNEEDED = ['einops']\nclass Cat(fal.App):\n    requirements = {line}\n"
    (app,) = read_source(write_source(tmp_path, text))
    assert app.requirements == expected


def test_modules_that_an_app_imports_and_names_come_along(tmp_path: Path) -> None:
    text = (
        "import fal, json, torch, words\nfrom kit.common import x\n"
        "class Cat(fal.App):\n"
        "    local_python_modules = ['models']\n"
        "    app_files = ['data/names.txt']\n"
    )
    path = write_source(tmp_path, text, "apps/cat.py")
    for name in ("words.py", "more.py", "unused.py", "models/one.py", "json.py"):
        write_source(path.parent, "import more\n" if name == "words.py" else "", name)
    write_source(path.parent, "tom", "data/names.txt")
    write_source(tmp_path, "", "kit/__init__.py")
    write_source(tmp_path, "", "kit/common.py")
    write_source(tmp_path, "", "torch/setup.py")  # a folder of that name is no package
    files = files_beside(path, "Cat", tmp_path)
    assert sorted(files) == [
        *("data/names.txt", "kit/__init__.py", "kit/common.py"),
        *("models/one.py", "more.py", "words.py"),
    ]
    assert len(bundle(path, (), files)) > len(bundle(path, ()))


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("local_python_modules = ['gone']", "local_python_modules names gone, which is not beside"),
        ("app_files = ['gone.txt']", "app_files names gone.txt, which is not there"),
    ],
)
def test_a_file_that_is_not_there_is_named(tmp_path: Path, line: str, sentence: str) -> None:
    path = write_source(tmp_path, f"import fal\nclass Cat(fal.App):\n    {line}\n")
    with pytest.raises(Misconfigured, match=sentence):
        files_beside(path, "Cat", tmp_path)
