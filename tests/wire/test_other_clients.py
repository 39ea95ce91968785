"""Clients of fal's protocol by other authors, unmodified, configured as in
docs/how-to/use-other-clients.md."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.node import node, packages
from tests.wire.served import Address, served

pytestmark = pytest.mark.wire

HERE = Path(__file__).parent
JAVASCRIPT = HERE / "javascript"
TIMEOUT_S = 240.0  # litellm alone takes many seconds of the CPU to import

LITELLM = """
import json, litellm, sys
litellm.telemetry = False
url, key = sys.argv[1:]
made = litellm.image_generation(
    prompt="a JPEG", model="fal_ai/fal-ai/flux/schnell", size="512x512", n=2,
    api_base=url, api_key=key,
)
print(json.dumps({"urls": [each.url for each in made.data]}))
try:
    litellm.image_generation(
        prompt="x", model="fal_ai/fal-ai/flux/schnell", n=99, api_base=url, api_key=key
    )
except litellm.exceptions.APIConnectionError as error:
    print(json.dumps({"said": str(error)}))
"""


@pytest.fixture(scope="module")
def address() -> Iterator[Address]:
    with served() as address:
        yield address


def python(program: str, *arguments: str | Path) -> str:
    """Output of the program, run with none of this shell's settings."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program, *arguments],
        env={"PATH": os.defpath, "LITELLM_LOCAL_MODEL_COST_MAP": "True"},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_litellm_draws_and_reports_what_is_wrong(address: Address) -> None:
    said = python(LITELLM, address.url, address.key)
    drawn, refused = (json.loads(line) for line in said.splitlines() if line.startswith("{"))
    assert len(drawn["urls"]) == 2
    for url in drawn["urls"]:
        image = httpx.get(url, trust_env=False)
        assert image.headers["content-type"] == "image/jpeg"
    assert "num_images" in refused["said"]


@pytest.fixture
def ai_sdk(address: Address) -> dict[str, Any]:
    packages(JAVASCRIPT)
    done = subprocess.run(
        [node(), JAVASCRIPT / "ai_sdk.mjs", address.url, address.key],
        env={"PATH": os.defpath},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def test_the_ai_sdk_draws_and_reports_what_is_wrong(ai_sdk: dict[str, Any]) -> None:
    assert [each["mediaType"] for each in ai_sdk["images"]] == ["image/jpeg", "image/jpeg"]
    assert all(each["bytes"] > 100 for each in ai_sdk["images"])
    assert ai_sdk["refused"]["status"] == 422
    assert "num_inference_steps" in ai_sdk["refused"]["said"]
