"""Clients by other authors and in other languages, unmodified, configured as in
docs/how-to/use-other-clients.md."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.node import node, packages
from tests.wire.media import MEDIA
from tests.wire.served import Address, serve

pytestmark = pytest.mark.wire

HERE = Path(__file__).parent
JAVASCRIPT = HERE / "javascript"
TIMEOUT_S = 240.0


@pytest.fixture(scope="module")
def address() -> Iterator[Address]:
    with serve(catalog=MEDIA) as address:
        yield address


def javascript(program: str, address: Address) -> dict[str, Any]:
    """What a program in ``javascript`` reports, run with none of this shell's settings."""
    packages(JAVASCRIPT)
    done = subprocess.run(
        [node(), JAVASCRIPT / program, address.url, address.key],
        env={"PATH": os.defpath},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def test_the_ai_sdk_draws_and_reports_what_is_wrong(address: Address) -> None:
    seen = javascript("ai_sdk.mjs", address)
    assert [image["mediaType"] for image in seen["images"]] == ["image/jpeg", "image/jpeg"]
    assert all(image["bytes"] > 100 for image in seen["images"])
    assert seen["refused"]["status"] == 422
    assert "num_inference_steps" in seen["refused"]["said"]


def test_the_ai_sdk_draws_by_its_provider_for_openai(address: Address) -> None:
    seen = javascript("ai_sdk_openai.mjs", address)
    assert [image["mediaType"] for image in seen["images"]] == ["image/jpeg", "image/jpeg"]
    assert seen["refused"]["status"] == 400
    assert "size" in seen["refused"]["said"]


def test_the_ai_sdk_draws_by_its_provider_for_replicate(address: Address) -> None:
    seen = javascript("ai_sdk_replicate.mjs", address)
    assert [image["mediaType"] for image in seen["images"]] == ["image/jpeg"]
    assert seen["refused"]["status"] == 422
    assert "num_inference_steps" in seen["refused"]["said"]


def test_the_ai_sdk_speaks_transcribes_and_makes_videos_by_its_other_providers(
    address: Address,
) -> None:
    assert javascript("ai_sdk_media.mjs", address) == {
        "speech": "RIFF",
        "heard": {"text": "Good morning.", "language": "en"},
        "video": "an MP4",
    }


def test_langchain_draws_by_its_tool_for_openai(address: Address) -> None:
    assert javascript("langchain.mjs", address) == {"type": "image/png"}


def test_openai_s_javascript_client_makes_and_edits_images_and_makes_a_video(
    address: Address,
) -> None:
    seen = javascript("openai.mjs", address)
    assert seen["drawn"] == ["ffd8", "ffd8"], "with the style `natural`, which nothing here has"
    assert seen["edited"] == ["ffd8"]
    assert seen["last"] == "image_generation.completed"
    assert seen["video"]["status"] == "completed"
    assert seen["video"]["content"]
    assert {"fal-ai/flux/schnell", "dall-e-3"} <= set(seen["models"])
    assert seen["refused"] == {"kind": "BadRequestError", "status": 400, "param": "n"}


def test_replicate_s_javascript_client_runs_waits_cancels_streams_and_uploads(
    address: Address,
) -> None:
    seen = javascript("replicate.mjs", address)
    # Over plain HTTP, files are inside the prediction.
    assert seen["images"] == [{"start": "ffd8", "scheme": "data:"}] * 2
    assert seen["ended"] == "succeeded"
    assert seen["listed"]
    assert seen["canceled"] == "canceled"
    assert seen["events"][-1] == "done"
    assert "output" in seen["events"]
    assert seen["file"] == 3
    assert seen["given"].startswith("/"), "the address of an upload, not the file itself"
    assert seen["model"] == "fal-ai/flux-schnell"
    assert seen["search"] == ["fal-ai/flux-schnell"]
    assert seen["deployed"] == "succeeded"
    assert all(seen["found"])
    assert seen["refused"]["status"] == 422
    assert "less than or equal to 4" in seen["refused"]["said"]
