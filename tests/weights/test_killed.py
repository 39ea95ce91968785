"""A process that is killed during a download: the next one resumes it, and does not wait for an
abandoned lock."""

import os
import signal
import subprocess
import sys
import time

import pytest

from tests.weights.conftest import COMMIT, NAME, WEIGHTS
from tests.weights.hub_server import sha256

pytestmark = pytest.mark.crash

UNET = "unet/diffusion_pytorch_model.safetensors"
CHUNK = 16_384
CHILD = f"""
import sys
from pathlib import Path
from huggingface_hub import constants
from serve_app.domain.endpoint import Weights
from serve_app.domain.endpoint import StoreConfig
from weights.hub import Hub
from weights.store import Store
constants.DOWNLOAD_CHUNK_SIZE = {CHUNK}  # the library writes whole chunks, of 10 MiB
url, directory = sys.argv[1:]
store = Store(StoreConfig(directory=Path(directory)), lambda: Hub(url))
with store.open(Weights({NAME!r}, {COMMIT!r})):
    pass
"""


def test_the_next_goes_on_from_what_a_killed_one_has_left(hub, store, repository):
    hub.hold_after[UNET] = 300_000
    child = subprocess.Popen([sys.executable, "-c", CHILD, hub.url, str(store.directory)])
    part = store.directory / "models--house--small" / "blobs" / f"{sha256(repository / UNET)}.part"
    whole = 300_000 // CHUNK * CHUNK
    try:
        assert hub.held.wait(240)
        until = time.monotonic() + 240
        while not (part.exists() and part.stat().st_size >= whole):
            assert child.poll() is None
            assert time.monotonic() < until
            time.sleep(0.01)
    finally:
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
    hub.go.set()
    hub.hold_after.clear()
    with store.open(WEIGHTS) as folder:
        assert sha256(folder / UNET) == sha256(repository / UNET)
    assert [download.range for download in hub.downloads(UNET)] == [None, f"bytes={whole}-"]
