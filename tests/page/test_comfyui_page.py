"""ComfyUI's own page, from its package, in front of the queue: what a user of ComfyUI does first.

The package is under the GPL, so it is no requirement of the tests: the fixture installs it to a
folder of its own, as an operator has it.
"""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image
from playwright.sync_api import BrowserContext, Page, expect

from tests.ingress.comfyui.comfy import CATALOG, GraphReplica, describe
from tests.ingress.house import House
from tests.wire.served import Address, serve

PACKAGE = "comfyui-frontend-package==1.58.1"
INSTALLED_WITHIN_S = 240
SIZE = (48, 32)
PATIENCE_MS = 120_000  # it has hundreds of scripts


def describe_node(
    name: str, inputs: dict[str, Any], outputs: list[str], *, ends: bool = False
) -> dict[str, Any]:
    """Node class, as ComfyUI describes it."""
    return {
        "input": {"required": inputs},
        "input_order": {"required": list(inputs)},
        "output": outputs,
        "output_is_list": [False] * len(outputs),
        "output_name": outputs,
        "name": name,
        "display_name": name,
        "description": "",
        "python_module": "nodes",
        "category": "image",
        "output_node": ends,
    }


NODES = {
    "version": "0.3.75",
    "models": {"checkpoints": ["sd15.safetensors"]},
    "classes": {
        "EmptyImage": describe_node(
            "EmptyImage",
            {
                "width": ["INT", {"default": 64, "min": 1, "max": 4096}],
                "color": ["INT", {"default": 0, "min": 0, "max": 0xFFFFFF}],
            },
            ["IMAGE"],
        ),
        "SaveImage": describe_node(
            "SaveImage",
            {"images": ["IMAGE", {}], "filename_prefix": ["STRING", {"default": "ComfyUI"}]},
            [],
            ends=True,
        ),
    },
}
WORKFLOW = {
    "1": {"class_type": "EmptyImage", "inputs": {"width": 640, "color": 255}},
    "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "mine"}},
}


class PaintingReplica(GraphReplica):
    """Its images can be shown."""

    def content_of(self, name: str) -> bytes:
        written = io.BytesIO()
        Image.new("RGB", SIZE, "red").save(written, "PNG")
        return written.getvalue()


@pytest.fixture(scope="module")
def comfyui_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of ComfyUI's page. Skips where no package index is reachable."""
    folder = tmp_path_factory.mktemp("comfyui-page")
    words = ("pip", "install", "--quiet", "--no-deps", "--target", str(folder), PACKAGE)
    done = subprocess.run(
        (sys.executable, "-m", *words),
        capture_output=True,
        text=True,
        check=False,
        timeout=INSTALLED_WITHIN_S,
    )
    if done.returncode:
        pytest.skip(f"{PACKAGE} cannot be installed here: {done.stderr[-300:]}")
    return folder / "comfyui_frontend_package" / "static"


@asynccontextmanager
async def painting(house: House) -> AsyncIterator[None]:
    await describe(house, NODES)
    replica = PaintingReplica(house.queue, house.storage)
    await replica.start()
    try:
        yield
    finally:
        await replica.aclose()


@pytest.fixture
def address(comfyui_page: Path) -> Iterator[Address]:
    with serve(painting, catalog=CATALOG, replica=False, comfyui_page=comfyui_page) as address:
        # Without it, the page begins with a tour.
        settings = {"Comfy.TutorialCompleted": True}
        url = f"{address.url}/comfyui/api/settings"
        key = {"authorization": f"Key {address.key}"}
        httpx.post(url, json=settings, headers=key).raise_for_status()
        yield address


@pytest.mark.long  # 15 s of CPU, and it installs a package
def test_a_workflow_is_loaded_run_seen_and_saved(
    address: Address, open_context: Callable[..., BrowserContext], tmp_path: Path
) -> None:
    user, _, password = address.key.partition(":")
    context = open_context(http_credentials={"username": user, "password": password})
    context.set_default_timeout(PATIENCE_MS)
    page = context.new_page()
    answered: list[str] = []
    page.on("response", lambda response: answered.append(response.url))
    open_page(page, address)

    file = tmp_path / "poster.json"
    file.write_text(json.dumps(WORKFLOW))
    page.set_input_files("#comfy-file-input", str(file))
    expect(page.get_by_test_id("workflow-tab").filter(has_text="poster")).to_be_visible()
    with (
        page.expect_response(
            lambda response: response.url.endswith("/comfyui/api/prompt")
        ) as queued,
        page.expect_response(lambda response: "/comfyui/api/view?" in response.url) as seen,
    ):
        page.get_by_test_id("queue-button").click()
    assert queued.value.status == 200
    sent = json.loads(queued.value.request.post_data or "{}")
    assert sent["prompt"]["1"]["inputs"]["width"] == 640
    shown = Image.open(io.BytesIO(seen.value.body()))
    assert shown.size == SIZE

    page.keyboard.press("Control+s")
    with page.expect_response(lambda response: "/userdata/workflows%2F" in response.url) as saved:
        page.keyboard.press("Enter")
    assert saved.value.ok
    open_page(page, address)
    page.get_by_test_id("workflows-tab-button").click()
    expect(page.get_by_text("poster").first).to_be_visible()
    origins = {url.split("/comfyui/")[0] for url in answered if url.startswith("http")}
    assert origins == {own_origin(address)}


def own_origin(address: Address) -> str:
    return address.url.replace("127.0.0.1", "comfyui.localhost")


def open_page(page: Page, address: Address) -> None:
    page.goto(f"{own_origin(address)}/comfyui/")
    expect(page.get_by_test_id("queue-button")).to_be_enabled(timeout=PATIENCE_MS)
    expect(page.get_by_test_id("app-loading-overlay")).to_be_hidden(timeout=PATIENCE_MS)
