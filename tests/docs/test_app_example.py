"""The app of the docs, served by a real worker process and tested as the docs say."""

from __future__ import annotations

import asyncio
import hashlib
import json
import subprocess
import sys
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from deployments.executors.describing import bundle
from deployments.executors.environment import Environments
from deployments.executors.python.deploying import entries
from deployments.executors.python.describing import describe, read_source
from serve_app.catalog.schema.json_schema import JsonSchema
from serve_app.domain.endpoint import Endpoint, Weights
from serve_app.domain.executors.deployable import Choices
from tests.deployments.executors.rig import ExecutorRig
from tests.docs.pages import DOCS, blocks

PAGE = DOCS / "how-to" / "serve-your-own-code.md"


def block(begins: str) -> str:
    (text,) = (fenced.text for fenced in blocks(PAGE, "python") if fenced.text.startswith(begins))
    return text


def write_app(folder: Path) -> Path:
    path = folder / "poster.py"
    path.write_text(block("# poster.py"))
    return path


async def test_the_app_of_the_docs_is_served(tmp_path: Path) -> None:
    path = write_app(tmp_path)
    (app,) = await asyncio.to_thread(read_source, path)
    code = bundle(path, ())
    description = await describe(tmp_path, "poster", app, Environments(tmp_path / "made"))
    digest = hashlib.sha256(code).hexdigest()
    stored = dict(entries({**description, "class": "poster:Poster"}, Choices(None), digest))
    assert list(stored) == ["apps/poster/count", "apps/poster"]
    assert stored["apps/poster"]["category"] == "image-to-image"
    options = stored["apps/poster"]["options"]
    endpoint = Endpoint("apps/poster", "python", Weights(""), "json", options=options)
    arguments, _ = JsonSchema(endpoint).validate(
        {"image_url": "http://anywhere/files/u/red.png", "title": "A red square"}
    )

    rig = ExecutorRig(tmp_path, code=code)
    red = BytesIO()
    Image.new("RGB", (160, 160), "red").save(red, "PNG")
    rig.storage.objects["u/red.png"] = red.getvalue()
    await rig.replica.start()
    try:
        outcome = await rig.outcome(rig.offer("one", lease_endpoint=endpoint, **arguments))
    finally:
        await rig.replica.aclose()
    assert outcome.failure is None
    assert (outcome.output or {})["words"] == 3
    (artifact,) = outcome.artifacts
    assert (artifact.width, artifact.height) == (160, 208)
    with Image.open(BytesIO(rig.storage.objects[artifact.key])) as image:
        assert image.getpixel((80, 80)) == (255, 0, 0)
        below = image.crop((0, 160, 160, 208)).convert("L").getextrema()
    assert below == (0, 255)  # black letters on white


@pytest.mark.long
async def test_the_values_of_the_generator_of_the_docs_stream(tmp_path: Path) -> None:
    path = tmp_path / "teller.py"
    path.write_text(block("# teller.py"))
    code = bundle(path, ())
    (app,) = await asyncio.to_thread(read_source, path)
    description = await describe(tmp_path, "teller", app, Environments(tmp_path / "made"))
    digest = hashlib.sha256(code).hexdigest()
    stored = dict(entries({**description, "class": "teller:Teller"}, Choices(None), digest))
    options = stored["apps/teller"]["options"]
    endpoint = Endpoint("apps/teller", "python", Weights(""), "json", options=options)
    assert endpoint.streams
    rig = ExecutorRig(tmp_path, code=code)
    await rig.replica.start()
    try:
        outcome = await rig.outcome(
            rig.offer("one", lease_endpoint=endpoint, words=["once", "upon"])
        )
    finally:
        await rig.replica.aclose()
    assert [json.loads(partial.value) for partial in rig.source.partials] == [
        {"output": "once"},
        {"output": "upon"},
    ]
    assert outcome.output == {"output": "upon"}


def test_the_app_of_the_docs_is_tested_in_process(tmp_path: Path) -> None:
    write_app(tmp_path)
    test = block("from darkroom import run")
    done = subprocess.run(
        [sys.executable, "-c", test], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
