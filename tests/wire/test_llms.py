"""The programs in an endpoint's text run unchanged."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.ingress.house import OTHERS
from tests.node import node, packages
from tests.wire.served import Address, serve

pytestmark = pytest.mark.wire

HERE = Path(__file__).parent
TEXTS = ("fal-ai/flux/schnell", "fal-ai/fast-sdxl/image-to-image")


@pytest.fixture(scope="module")
def address() -> Iterator[Address]:
    with serve(catalog=OTHERS) as address:
        yield address


def block(address: Address, endpoint_id: str, language: str) -> str:
    response = httpx.get(
        f"{address.url}/models/{endpoint_id}/llms.txt",
        headers={"authorization": f"Key {address.key}"},
    )
    assert response.status_code == 200
    match = re.search(rf"```{language}\n(.+?)```", response.text, re.S)
    assert match is not None
    return match[1]


def run_command(address: Address, *command: str | Path) -> str:
    done = subprocess.run(
        command,
        env={"PATH": os.defpath, "HOME": "/nonexistent", "FAL_KEY": address.key},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("endpoint_id", TEXTS)
def test_the_python_program_makes_something(address: Address, endpoint_id: str) -> None:
    program = block(address, endpoint_id, "python")
    assert f"{address.url}/files/" in run_command(address, sys.executable, "-c", program)


@pytest.mark.long
@pytest.mark.parametrize("endpoint_id", TEXTS)
def test_the_javascript_program_makes_something(
    address: Address, endpoint_id: str, tmp_path: Path
) -> None:
    (tmp_path / "node_modules").symlink_to(packages(HERE / "javascript"))
    program = tmp_path / "program.mjs"
    program.write_text(block(address, endpoint_id, "javascript"))
    assert f"{address.url}/files/" in run_command(address, node(), program)


def test_the_curl_command_makes_something(address: Address) -> None:
    command = block(address, TEXTS[0], "bash")
    assert f"{address.url}/files/" in run_command(address, "bash", "-c", command)
