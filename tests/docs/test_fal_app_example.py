"""The app for fal of the docs, served with the real package ``fal``."""

from __future__ import annotations

import asyncio
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from tests.deployments.executors.python.fal.house import deploy_app, environments_with_fal, serving
from tests.docs.pages import DOCS, blocks

PAGE = DOCS / "how-to" / "serve-a-fal-app.md"


@pytest.mark.long
async def test_the_app_for_fal_of_the_docs_is_served(tmp_path: Path) -> None:
    (block,) = (fenced.text for fenced in blocks(PAGE, "python"))
    path = tmp_path / "square.py"
    path.write_text(block)
    environments = await asyncio.to_thread(environments_with_fal)
    app = await asyncio.to_thread(deploy_app, path, tmp_path, environments)
    assert [endpoint.id for endpoint in app.endpoints.values()] == ["apps/square"]
    assert app.found["concurrency"] == 2
    async with serving(app, tmp_path / "replica") as rig:
        wide = BytesIO()
        Image.new("RGB", (64, 32), "red").save(wide, "PNG")
        rig.rig.storage.objects["u/wide.png"] = wide.getvalue()
        arguments = {"image_url": "http://anywhere/files/u/wide.png", "size": 16}
        outcome = await rig.call("/", **arguments)
    assert outcome.failure is None, outcome.failure
    (artifact,) = outcome.artifacts
    with Image.open(BytesIO(rig.rig.storage.objects[artifact.key])) as image:
        assert (image.size, image.getpixel((8, 8))) == ((16, 16), (255, 0, 0))
