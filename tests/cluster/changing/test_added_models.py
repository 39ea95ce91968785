"""Models that are added while Darkroom runs, as a user adds them."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from tests.cluster.changing.conftest import WithPool
from tests.cluster.darkroom import Darkroom, eventually

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1800)]

POOL = {"families": ["probe", "flux", "generic"], "slots": 2, "num_cpus": 0.1}
SIZE = {"width": 128, "height": 96}
CALL = """
import json, sys
import fal_client
import fal_plain_http
fal_plain_http.use(sys.argv[1])
client = fal_client.SyncClient(key=sys.argv[2])
body = json.loads(sys.argv[3])
print(json.dumps([client.subscribe(each, body) for each in sys.argv[4:]]))
"""
REPOSITORIES = """
import sys
from tests.engine.tiny import tiny_flux, tiny_sd3
tiny_sd3().save_pretrained(sys.argv[1] + "/sd3", safe_serialization=True)
tiny_flux().save_pretrained(sys.argv[1] + "/flux", safe_serialization=True)
"""


def program(text: str, *arguments: str) -> str:
    """Output of a Python program of its own."""
    done = subprocess.run(
        [sys.executable, "-c", text, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def images(darkroom: Darkroom, *endpoints: str) -> list[Image.Image]:
    """An image of each, that fal's own client gets."""
    body: dict[str, Any] = {
        "prompt": "a red circle",
        "num_inference_steps": 2,
        "seed": 7,
        "image_size": SIZE,
        "output_format": "png",
    }
    printed = program(CALL, darkroom.url, darkroom.key, json.dumps(body), *endpoints)
    files = [image for output in json.loads(printed) for image in output["images"]]
    return [Image.open(io.BytesIO(httpx.get(file["url"]).content)) for file in files]


@pytest.mark.long
def test_a_repository_is_added_called_and_removed_without_a_restart(
    with_pool: WithPool, tmp_path: Path
) -> None:
    program(REPOSITORIES, str(tmp_path))
    darkroom = with_pool(POOL, "fal-ai/flux/schnell")
    (before,) = eventually(darkroom.replicas, "a replica runs")
    adding = ("models", "add", "house/sd3", "--weights", str(tmp_path / "sd3"))
    added = darkroom.command(*adding)
    assert added.returncode == 0, added.stderr
    assert "house/sd3 is served by the pool studio" in added.stdout
    assert "StableDiffusion3Pipeline" in added.stdout
    like = ("models", "add", "house/flux", "--weights", str(tmp_path / "flux"))
    added = darkroom.command(*like, "--like", "fal-ai/flux/schnell")
    assert added.returncode == 0, added.stderr

    drawn = images(darkroom, "house/sd3", "house/flux")
    assert len(drawn) == 2
    for image in drawn:
        assert image.size == (SIZE["width"], SIZE["height"])
        assert len(image.convert("RGB").getcolors(image.width * image.height) or ()) > 50

    again = darkroom.command(*adding)
    assert (again.returncode, "exists already" in again.stderr) == (1, True)
    deleted = darkroom.command("models", "delete", "house/sd3")
    assert deleted.stdout == "house/sd3 is deleted.\n"
    assert darkroom.http.post("/run/house/sd3", json={}).status_code == 404
    assert [replica.pid for replica in darkroom.replicas()] == [before.pid]
