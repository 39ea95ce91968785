"""Own Python code on a real cluster: deployed, called with fal's client, killed, replaced."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from serve_app.domain.media.file_metadata import find
from tests.cluster.darkroom import CALL_S, Darkroom, eventually
from tests.cluster.executor_calls import (
    answers_openai_and_mcp,
    passes_an_endpoint_through_to_fal,
)
from tests.cluster.fal_app import serves_an_app_for_fal
from tests.deployments.client_bucket import TYPED, Bucket, bucket, moto_server

__all__ = ["bucket", "moto_server"]

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1800)]

APP = """
import os
import time
from collections.abc import Iterator

import darkroom


class Shop(darkroom.App):
    concurrency = 2

    @darkroom.endpoint("/")
    def draw(self, image_url: darkroom.Image) -> darkroom.Image:
        print("drawing")
        return darkroom.Image.from_bytes(image_url.read_bytes(), "image/png")

    @darkroom.endpoint("/poster")
    def poster(self, prompt: str) -> darkroom.Image:
        return darkroom.Image.from_bytes(b"\\x89PNG\\r\\n\\x1a\\n a poster", "image/png")

    @darkroom.endpoint("/card")
    def card(self) -> darkroom.Image:
        from PIL import Image

        return darkroom.Image.from_pil(Image.new("RGB", (600, 300), "red"))

    @darkroom.endpoint("/process")
    def process(self) -> dict[str, int]:
        return {"pid": os.getpid()}

    @darkroom.endpoint("/slow")
    def slow(self, until: str) -> str:
        while not os.path.exists(until):
            darkroom.progress(1, 2)
            time.sleep(0.02)
        return "done"

    @darkroom.endpoint("/tell")
    def tell(self, until: str) -> Iterator[darkroom.Image | str]:
        yield "once"
        yield darkroom.Image.from_bytes(b"a sketch", "image/png")
        while not os.path.exists(until):
            darkroom.progress(1, 2)
            time.sleep(0.02)
        yield "upon"
"""
PREDICT = """
from cog import BasePredictor, Input, Path


class Predictor(BasePredictor):
    def predict(self, image_url: Path, copies: int = Input(default=1, ge=1, le=3)) -> Path:
        print("copying")
        copied = Path("copy.png")
        copied.write_bytes(image_url.read_bytes() * copies)
        return copied
"""
PNG = b"\x89PNG\r\n\x1a\n a picture"


CALL = """
import json, sys
import fal_client
import fal_plain_http
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


STREAM = """
import json, sys
from pathlib import Path
import fal_client
import fal_plain_http
fal_plain_http.use(sys.argv[1])
client = fal_client.SyncClient(key=sys.argv[2])
events = []
for event in client.stream("house/shop/tell", {"until": sys.argv[3]}):
    events.append(event["output"])
    if len(events) == 2:  # the third value is made only now
        Path(sys.argv[3]).touch()
print(json.dumps(events))
"""


def stream_values(darkroom: Darkroom, until: Path) -> list[Any]:
    """Values of a generator, by fal's own client. The last one is not made before others came."""
    done = subprocess.run(
        [sys.executable, "-c", STREAM, darkroom.url, darkroom.key, str(until)],
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def call_endpoint(darkroom: Darkroom, endpoint: str) -> tuple[dict[str, Any], list[str]]:
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


def shows_and_says_what_made_it(darkroom: Darkroom) -> None:
    """A picture of an app says what made it, and has a small one in the list of requests."""
    (card,) = darkroom.http.post("/run/house/shop/card", json={}).json().values()
    metadata = find(httpx.get(card["url"], trust_env=False, timeout=CALL_S).content)
    assert metadata is not None
    assert (metadata.endpoint, metadata.seed) == ("house/shop/card", None)
    (request, *_) = darkroom.http.get("/v1/requests").json()["requests"]
    (file,) = request["files"]
    assert file["url"] == card["url"]
    small = httpx.get(file["thumbnail"]["url"], trust_env=False, timeout=CALL_S)
    assert small.headers["Content-Type"] == "image/webp"
    with Image.open(BytesIO(small.content)) as picture:
        assert picture.size == (512, 256)


def deploy_app(darkroom: Darkroom, folder: Path) -> None:
    path = folder / "shop.py"
    path.write_text(APP)
    done = darkroom.command("deploy", str(path), "--name", "house/shop")
    assert done.returncode == 0, done.stderr
    assert "house/shop/slow is served by the pool apps." in done.stdout


def add_hosted_endpoint(darkroom: Darkroom, endpoint: str) -> str:
    """An endpoint that a hosted provider runs: this very Darkroom, by its other endpoint."""
    secret = "/v1/secrets/ELSEWHERE_KEY?installation=true"
    kept = darkroom.http.put(secret, json={"value": darkroom.key})
    assert kept.status_code == 200, kept.text
    file = {"type": "string", "x-darkroom-file": "image"}
    entry = {
        "family": "darkroom",
        "schema": "json",
        "category": "image-to-image",
        "options": {
            "secrets": ["ELSEWHERE_KEY"],
            "hosted": {"endpoint": endpoint, "url": darkroom.url},
            "input_schema": {"type": "object", "properties": {"image_url": file}},
            "output_schema": {"type": "object"},
        },
    }
    added = darkroom.http.put("/v1/models/entries/hosted/shop", json=entry)
    assert added.status_code == 200, added.text
    return "hosted/shop"


@pytest.mark.long
def test_an_app_serves_from_nothing_also_through_a_hosted_endpoint_and_its_death_loses_nothing(
    make_darkroom: Callable[..., Darkroom], tmp_path: Path, bucket: Bucket
) -> None:
    pools = {
        "apps": {"families": ["python", "cog"], "min_replicas": 0, "slots": 8},
        "hosted": {"families": ["darkroom", "fal"], "min_replicas": 0, "slots": 8},
    }
    darkroom = make_darkroom(pools, allow_private_urls="1")  # the bucket is on this machine
    darkroom.start()
    broken = tmp_path / "broken.py"
    broken.write_text("import darkroom\n\nclass Broken(darkroom.App):\n    def run(self:\n")
    refused = darkroom.command("deploy", str(broken))
    assert refused.returncode == 1
    assert "broken.py:4" in refused.stderr
    deploy_app(darkroom, tmp_path)

    result, logs = call_endpoint(darkroom, "house/shop")
    image = result["image"]
    assert (image["content_type"], image["file_size"]) == ("image/png", len(PNG))
    assert httpx.get(image["url"], trust_env=False, timeout=CALL_S).content == PNG
    assert "drawing" in logs

    shows_and_says_what_made_it(darkroom)
    once, sketch, upon = stream_values(darkroom, tmp_path / "told")
    assert (once, upon) == ("once", "upon")
    assert sketch["url"] == "data:image/png;base64,YSBza2V0Y2g="
    policy = bucket.policy(TYPED)
    value = json.dumps({"url": policy.url, "fields": dict(policy.fields)})
    body, headers = {"image_url": image["url"]}, {"X-App-Fal-Upload-Policy": value}
    own = darkroom.http.post("/run/house/shop", json=body, headers=headers).json()["image"]
    assert bucket.objects() == {f"out/{own['file_name']}": PNG}
    assert own["url"] == f"{policy.url.rstrip('/')}/out/{own['file_name']}"

    result, logs = call_endpoint(darkroom, add_hosted_endpoint(darkroom, "house/shop"))
    assert httpx.get(result["image"]["url"], trust_env=False, timeout=CALL_S).content == PNG
    assert result["image"]["url"] != image["url"]
    assert "drawing" in logs
    answers_openai_and_mcp(darkroom, "house/shop/poster", PNG.replace(b"picture", b"poster"))
    passes_an_endpoint_through_to_fal(darkroom)

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
    serves_an_app_for_fal(darkroom)

    folder = tmp_path / "copier"
    folder.mkdir()
    (folder / "cog.yaml").write_text("predict: predict.py:Predictor\n")
    (folder / "predict.py").write_text(PREDICT)
    done = darkroom.command("deploy", str(folder), "--name", "house/copier")
    if "cannot be installed" in done.stderr:
        pytest.skip(f"The package cog cannot be installed here: {done.stderr}")
    assert "house/copier is served by the pool apps." in done.stdout, done.stderr
    result, logs = call_endpoint(darkroom, "house/copier")
    copied = result["output"]
    assert (copied["content_type"], copied["file_size"]) == ("image/png", len(PNG))
    assert httpx.get(copied["url"], trust_env=False, timeout=CALL_S).content == PNG
    assert "copying" in logs
    refused_input = darkroom.http.post("/queue/house/copier", json={"copies": 4})
    assert refused_input.status_code == 422
    darkroom.stop()
    assert not Path(f"/proc/{other}").exists()
