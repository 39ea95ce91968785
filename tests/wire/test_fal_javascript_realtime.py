"""Realtime with fal's own JavaScript client, unmodified but for the address of its WebSockets."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest

from tests.node import node, packages
from tests.wire.served import Address
from tests.wire.test_fal_javascript_client import HERE, TIMEOUT_S, program

pytestmark = pytest.mark.wire


@pytest.fixture(scope="module")
def results(darkroom_address: Address, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Result of each action."""
    folder = tmp_path_factory.mktemp("realtime")
    (folder / "node_modules").symlink_to(packages(HERE))
    setup = folder / "setup.mjs"
    setup.write_text(program("middleware", darkroom_address))
    done = subprocess.run(
        [node(), HERE / "realtime.mjs", setup, darkroom_address.url, darkroom_address.key],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    return {line["name"]: line["value"] for line in lines}


def test_a_frame_is_answered_with_its_own_id(results: dict[str, Any]) -> None:
    assert results["first"]["echo"] == {"a": "é"}
    assert results["first"]["request_id"] == "r-1"


def test_images_come_as_bytes_and_may_go_as_bytes(results: dict[str, Any]) -> None:
    assert bytes.fromhex(results["image"]) == b"abc"
    assert results["bytes"].startswith("data:image/png;base64,")


def test_a_wrong_frame_is_an_error_and_the_session_goes_on(results: dict[str, Any]) -> None:
    assert results["wrong"]["kind"] == "error"
    assert "artifacts" in results["wrong"]["said"]
    assert results["after"] == 2


def test_a_token_that_is_refused_has_the_client_ask_for_another(results: dict[str, Any]) -> None:
    assert results["refused"]["kind"] == "error"
    assert "token" in results["refused"]["said"]
    assert results["again"]["tokens"] == 2
    assert results["again"]["heard"]["value"]["echo"] == 4
