"""The examples of the docs do what is said of them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from pydantic import TypeAdapter

from serve_app.cli import environment
from serve_app.cli.sample import call_lines
from serve_app.settings import Config, PoolConfig
from tests.docs.pages import DOCS, PAGES, ROOT, Block, block, blocks
from tests.wire.entered import entered, installed
from tests.wire.served import served

Build = Callable[[dict[str, Any]], Any]
PYTHON = [each for page in PAGES for each in blocks(page, "python")]


@pytest.mark.parametrize("example", PYTHON, ids=str)
def test_python_compiles(example: Block) -> None:
    compile(example.text, str(example.page), "exec")


@pytest.mark.wire
def test_the_readme_s_call_gets_a_picture(tmp_path: Path) -> None:
    example = block(ROOT / "README.md", "python")
    with served() as here, entered(here.url, tmp_path) as ways:
        shell = environment.variables(installed(here, ways, tmp_path), "proxy")
        ran = subprocess.run(
            [sys.executable, "-c", example],
            env={"PATH": os.defpath, **shell},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert ran.returncode == 0, ran.stderr
        picture = httpx.get(ran.stdout.strip(), trust_env=False)  # as a browser would
    assert picture.status_code == 200
    assert picture.headers["content-type"] == "image/jpeg"


@pytest.mark.wire
def test_what_the_start_prints_gets_a_picture_in_a_shell(tmp_path: Path) -> None:
    with served() as here, entered(here.url, tmp_path) as ways:
        lines = call_lines(installed(here, ways, tmp_path), here.url)
        assert len(lines) == 3
        ran = subprocess.run(
            ["sh", "-ec", "\n".join(lines)],
            env={"PATH": os.defpath, "HOME": str(tmp_path)},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert ran.returncode == 0, ran.stderr
    assert "/files/" in ran.stdout


def test_the_cluster_s_configuration_builds(build: Build) -> None:
    (application,) = yaml.safe_load(block(DOCS / "06-pools-and-scaling.md", "yaml"))["applications"]
    module, _, name = application["import_path"].partition(":")
    assert (module, name) == (build.__module__, build.__name__)
    build(application["args"])
    given = Config(**application["args"])
    wanted = TypeAdapter(dict[str, PoolConfig]).validate_python(application["args"]["pools"])
    assert given.pools == wanted
    assert not given.serves_demo
