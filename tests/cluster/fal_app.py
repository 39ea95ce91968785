"""An app for fal on a real cluster, called with fal's own client."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.cluster.darkroom import CALL_S, Darkroom
from tests.deployments.executors.python.fal.house import CAMERA, LIVE, environments_with_fal

CALL = """
import json, sys
import fal_client
import fal_plain_http
fal_plain_http.use(sys.argv[1])
client = fal_client.SyncClient(key=sys.argv[2])
drawn = client.subscribe("apps/camera", {"color": "blue"}, with_logs=True)
gray = client.subscribe("apps/camera/gray", {"image_url": drawn["images"][0]["url"]})
spoken = client.subscribe("apps/camera/speak", {"text": "hello"})
try:
    client.subscribe("apps/camera/fail", {"how": "field"})
except fal_client.FalClientHTTPError as error:
    refused = [error.status_code, error.response.json()["detail"][0]["loc"]]
print(json.dumps([drawn, gray, spoken, refused]))
"""

SESSIONS = """
import json, sys
import fal_client
import fal_plain_http
fal_plain_http.use(sys.argv[1])
client = fal_client.SyncClient(key=sys.argv[2])
heard = []
with client.realtime("apps/live") as session:
    for number in range(20):
        session.send({"prompt": "image"})
        heard.append(session.recv()["image"]["url"][:14])
with client.realtime("apps/live", path="/talk") as session:
    for number in range(20):
        session.send({"prompt": "x"})
    heard += [session.recv()["number"] for _ in range(20)]
with client.realtime("apps/live") as session:
    session.send({"prompt": "die"})
    try:
        session.recv()
    except fal_client.client.RealtimeError as error:
        heard.append(str(error))
print(json.dumps(heard))
"""


def serves_an_app_for_fal(darkroom: Darkroom) -> None:
    """Deploy the tests' app and call it, where an index of packages has ``fal``."""
    try:
        environments = environments_with_fal()
    except pytest.skip.Exception:
        return
    folder = Path(darkroom.data_dir) / "apps" / "environments"
    folder.mkdir(parents=True, exist_ok=True)
    for environment in environments.iterdir():
        if not (folder / environment.name).exists():
            (folder / environment.name).symlink_to(environment)
    done = darkroom.command("deploy", str(CAMERA))
    assert done.returncode == 0, done.stderr
    called = subprocess.run(
        [sys.executable, "-c", CALL, darkroom.url, darkroom.key],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert called.returncode == 0, called.stderr
    drawn, gray, spoken, refused = json.loads(called.stdout)
    assert [image["width"] for image in drawn["images"]] == [8, 8]
    assert gray["content_type"] == "image/png"
    read = httpx.get(
        spoken["link"], trust_env=False, timeout=CALL_S
    )  # a text, as the app declares it
    assert (read.content, spoken["audio"]["content_type"]) == (b"linked", "audio/wav")
    assert refused == [422, ["body", "how"]]
    _serves_realtime(darkroom)


def _serves_realtime(darkroom: Darkroom) -> None:
    """Frames pass through Serve in both directions, in their order."""
    done = darkroom.command("deploy", str(LIVE))
    assert done.returncode == 0, done.stderr
    called = subprocess.run(
        [sys.executable, "-c", SESSIONS, darkroom.url, darkroom.key],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert called.returncode == 0, called.stderr
    *heard, died = json.loads(called.stdout)
    assert heard == ["data:image/png"] * 20 + list(range(1, 21))
    assert "ended with status 5" in died
