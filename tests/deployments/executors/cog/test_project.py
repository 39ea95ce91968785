"""Projects of Cog: what of a ``cog.yaml`` is served, and what is refused."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent

import pytest

from deployments.executors.cog.project import PACKAGES, CogProject, read_project
from serve_app.domain.errors import Misconfigured


def project(folder: Path, text: str, *, prepared: bool = False) -> CogProject:
    (folder / "cog.yaml").write_text(dedent(text))
    return read_project(folder, prepared=prepared)


def test_requirements_come_from_the_file_that_is_named(tmp_path: Path) -> None:
    (tmp_path / "requirements.txt").write_text(
        "--extra-index-url https://packages.example\n\n# why\nnumpy==2.3  # this one\nscipy\n"
    )
    cog_project = project(
        tmp_path,
        """\
        build:
          gpu: true
          python_version: "3.11"
          python_requirements: requirements.txt
        concurrency:
          max: 4
        environment:
          - COLOUR=blue=green
        predict: predict.py:Predictor
        train: train.py:train
        """,
    )
    assert cog_project == CogProject(
        targets={"predict": "predict.py:Predictor", "train": "train.py:train"},
        requirements=(
            PACKAGES,
            "--extra-index-url https://packages.example",
            "numpy==2.3",
            "scipy",
        ),
        needs_gpu=True,
        concurrency=4,
        environment={"COLOUR": "blue=green"},
        notes=(),
    )


def test_what_differs_from_an_image_is_said(tmp_path: Path) -> None:
    cog_project = project(
        tmp_path,
        """\
        build:
          python_version: "3.9.1"
          sdk_version: "0.16.0"
          cuda: "12.4"
          python_packages: [numpy]
        run: run.py
        """,
    )
    assert cog_project.requirements == (PACKAGES, "numpy")
    assert cog_project.targets == {"predict": "run.py"}
    python, cuda, cog = cog_project.notes
    assert "Python 3.9.1" in python
    assert "build.cuda has no effect" in cuda
    assert "Cog 0.16.0" in cog


def test_a_newer_cog_is_the_one_that_is_named(tmp_path: Path) -> None:
    cog_project = project(tmp_path, 'build: {sdk_version: "0.24.0"}\npredict: predict.py\n')
    assert cog_project.requirements == ("cog==0.24.0",)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("build: [\n", "cog.yaml:2 is no YAML: "),
        ("build: 2026-13-45\n", "cog.yaml is no YAML: month must be in 1..12"),
        ("- a\n", "cog.yaml must have keys"),
        ("build: {}\n", "cog.yaml has neither `run` nor `predict`"),
        ("build: 3\npredict: a.py\n", "cog.yaml: build: Input should be an object with keys"),
        (
            "build: {system_packages: [ffmpeg, git]}\npredict: a.py\n",
            "cog.yaml: build.system_packages (ffmpeg, …) needs a Docker image",
        ),
        (
            "build: {run: [{command: make it}]}\npredict: a.py\n",
            "cog.yaml: build.run (make it) needs a Docker image",
        ),
        ("weights: [{name: a}]\npredict: a.py\n", "cog.yaml: weights: "),
        (
            "build: {python_packages: numpy}\npredict: a.py\n",
            "python_packages: Input should be a ",
        ),
        (
            "build: {python_packages: [a], python_requirements: b}\npredict: a.py\n",
            "has both build.python_packages and build.python_requirements",
        ),
        ("build: {python_requirements: gone.txt}\npredict: a.py\n", "gone.txt cannot be read"),
        ("build: {python_requirements: ../x}\npredict: a.py\n", "is outside of the folder: ../x"),
        ("build: {python_requirements: editable}\npredict: a.py\n", "editable:1: -e names another"),
        ("build: {python_requirements: wheel}\npredict: a.py\n", "wheel:2: dist/own-1.whl is a "),
        (
            "concurrency: {max: many}\npredict: a.py\n",
            "concurrency.max: Input should be a valid ",
        ),
        ("environment: {A: b}\npredict: a.py\n", "environment: Input should be a valid list"),
        ("environment: [A]\npredict: a.py\n", "A is not of the form NAME=value"),
        ("environment: [PATH=/bin]\npredict: a.py\n", "PATH is set by Darkroom"),
    ],
)
def test_what_cannot_be_served_is_refused_by_its_key(
    tmp_path: Path, text: str, sentence: str
) -> None:
    (tmp_path / "editable").write_text("-e .\n")
    (tmp_path / "wheel").write_text("numpy\ndist/own-1.whl\n")
    with pytest.raises(Misconfigured) as refused:
        project(tmp_path, text)
    assert sentence in refused.value.message


def test_machines_that_are_prepared_have_what_an_image_would(tmp_path: Path) -> None:
    text = "build: {system_packages: [ffmpeg], run: [make]}\npredict: a.py\n"
    assert project(tmp_path, text, prepared=True).targets == {"predict": "a.py"}


def test_a_folder_without_a_readable_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match=r"cog\.yaml cannot be read: No such file"):
        read_project(tmp_path)
