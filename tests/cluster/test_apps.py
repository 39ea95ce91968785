"""Own Python code on a real cluster: deployed, called with fal's client, killed, replaced."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.cluster.darkroom import Darkroom, eventually

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(400)]

APP = """
import os
import time

import darkroom


class Shop(darkroom.App):
    concurrency = 2

    @darkroom.endpoint("/")
    def draw(self, image_url: darkroom.Image) -> darkroom.Image:
        print("drawing")
        return darkroom.Image.from_bytes(image_url.read_bytes(), "image/png")

    @darkroom.endpoint("/process")
    def process(self) -> dict[str, int]:
        return {"pid": os.getpid()}

    @darkroom.endpoint("/slow")
    def slow(self, until: str) -> str:
        while not os.path.exists(until):
            darkroom.progress(1, 2)
            time.sleep(0.02)
        return "done"
"""
PNG = b"\x89PNG\r\n\x1a\n a picture"


CALL = """
import json, sys
import fal_client
from serve_app import fal_plain_http
fal_plain_http.use(sys.argv[1])
client = fal_client.SyncClient(key=sys.argv[2])
logs = []

def on_update(update):
    logs.extend(line["message"] for line in getattr(update, "logs", None) or ())

url = client.upload(bytes.fromhex(sys.argv[4]), "image/png", "red.png")
result = client.subscribe(
    sys.argv[3], {"image_url": url}, with_logs=True, on_queue_update=on_update
)
print(json.dumps([result, logs]))
"""


def called(darkroom: Darkroom, endpoint: str) -> tuple[dict[str, Any], list[str]]:
    """Result and log of a call by fal's own client, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", CALL, darkroom.url, darkroom.key, endpoint, PNG.hex()],
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    result, logs = json.loads(done.stdout)
    return result, logs


def deployed(darkroom: Darkroom, folder: Path) -> None:
    path = folder / "shop.py"
    path.write_text(APP)
    done = darkroom.command("deploy", str(path), "--name", "house/shop")
    assert done.returncode == 0, done.stderr
    assert "house/shop/slow is served by the pool apps." in done.stdout


def test_an_app_serves_from_nothing_and_its_death_loses_nothing(
    make_darkroom: Callable[..., Darkroom], tmp_path: Path
) -> None:
    pools = {"apps": {"families": ["python"], "min_replicas": 0, "slots": 4}}
    darkroom = make_darkroom(pools)
    darkroom.start()
    broken = tmp_path / "broken.py"
    broken.write_text("import darkroom\n\nclass Broken(darkroom.App):\n    def run(self:\n")
    refused = darkroom.command("deploy", str(broken))
    assert refused.returncode == 1
    assert "broken.py:4" in refused.stderr
    deployed(darkroom, tmp_path)

    result, logs = called(darkroom, "house/shop")
    image = result["image"]
    assert (image["content_type"], image["file_size"]) == ("image/png", len(PNG))
    assert httpx.get(image["url"], trust_env=False).content == PNG
    assert "drawing" in logs

    ready = tmp_path / "ready"
    submitted = darkroom.http.post("/queue/house/shop/slow", json={"until": str(ready)}).json()
    request_id = submitted["request_id"]
    darkroom.in_state(request_id, "running")
    pid = darkroom.http.post("/run/house/shop/process", json={}).json()["pid"]
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: darkroom.request(request_id)["attempt"] == 2, "a second attempt")
    ready.touch()
    darkroom.in_state(request_id, "succeeded")
    assert darkroom.http.get(submitted["response_url"]).json() == {"output": "done"}
    other = darkroom.http.post("/run/house/shop/process", json={}).json()["pid"]
    assert other != pid
    darkroom.stop()
    assert not Path(f"/proc/{other}").exists()
