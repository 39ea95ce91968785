"""People who work in a shell: a developer who comes from fal, an engineer with weights, and a
builder of assistants. Each is a function that takes the first steps as the docs say."""

from __future__ import annotations

import shlex
from pathlib import Path

from PIL import Image

from tests.cluster.darkroom import ROOT
from tests.first_hour.rehearsal import Rehearsal
from training.image.checker import read

PROMPT = "a red circle above a blue square"
OTHER_PROMPT = "a green star"

FAL_PROGRAM = f"""\
import fal_client

result = fal_client.subscribe(
    "fal-ai/flux/schnell",
    arguments={{"prompt": "{PROMPT}", "image_size": "square"}},
)
print(result["images"][0]["url"])
"""

FAL_JAVASCRIPT = f"""\
import {{ fal }} from "@fal-ai/client";

const {{ data }} = await fal.subscribe("fal-ai/flux/schnell", {{
  input: {{ prompt: "{PROMPT}", image_size: "square" }},
}});
console.log(data.images[0].url);
"""

MCP_PROGRAM = f"""\
import asyncio, os, sys
import httpx2
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

async def main(url, key):
    headers = {{"Authorization": "Bearer " + key}}
    async with httpx2.AsyncClient(headers=headers, timeout=60) as http:
        async with Client(streamable_http_client(url + "/mcp", http_client=http)) as client:
            tools = [each.name for each in (await client.list_tools()).tools]
            arguments = {{"model": "fal-ai/flux/schnell", "input": {{"prompt": "{PROMPT}"}}}}
            made = await client.call_tool("generate", arguments)
            print(*tools, *(each.type for each in made.content))

asyncio.run(main(*sys.argv[1:]))
"""

OPENAI_PROGRAM = f"""\
import sys
import openai

client = openai.OpenAI(base_url=sys.argv[1] + "/openai/v1", api_key=sys.argv[2])
made = client.images.generate(model="fal-ai/flux/schnell", prompt="{PROMPT}")
print(made.data[0].url or made.data[0].b64_json[:20])
"""


def web_developer(rehearsal: Rehearsal, url: str, key: str) -> None:
    """Has programs for fal, and changes nothing in them."""
    del url, key
    who, app = "web developer", rehearsal.folder / "app"
    rehearsal.read(who, "docs/tutorials/move-from-fal.md")
    app.mkdir()
    (app / "picture.py").write_text(FAL_PROGRAM)
    (app / "picture.mjs").write_text(FAL_JAVASCRIPT)
    report = rehearsal.type(who, "asks what of the app is supported", "darkroom migrate check app")
    rehearsal.expect("fal-ai/flux/schnell" in report, "endpoint in the report")
    rehearsal.client(who, "fal-client", "fal_client")
    in_the_shell = 'eval "$(darkroom env)" && '
    printed = rehearsal.type(
        who, "runs the Python program unchanged", f"{in_the_shell}python app/picture.py"
    )
    rehearsal.expect("http" in printed, "URL of an image")
    packages = ROOT / "tests" / "wire" / "javascript" / "node_modules"
    if packages.is_dir():
        (app / "node_modules").symlink_to(packages)
        printed = rehearsal.type(
            who, "runs the JavaScript program unchanged", f"{in_the_shell}node app/picture.mjs"
        )
        rehearsal.expect("http" in printed, "URL of an image")


def ml_engineer(rehearsal: Rehearsal, url: str, key: str) -> None:
    """Has weights of their own, and wants an endpoint for them."""
    del url, key
    who, weights = "ML engineer", ROOT / "deployments" / "demo" / "flux"
    rehearsal.read(who, "docs/tutorials/serve-your-fine-tune.md")
    add = f"darkroom models add house/shapes --weights {weights} --like fal-ai/flux/dev"
    rehearsal.type(who, "adds an endpoint for a folder of weights", add)
    listed = rehearsal.type(who, "looks whether it is served", "darkroom models")
    rehearsal.expect("house/shapes" in listed, "new endpoint in the list")
    words = shlex.quote(OTHER_PROMPT)
    generate = f"darkroom generate {words} -m house/shapes --size 128x128 --seed 7 -o shapes.png"
    rehearsal.type(who, "generates with it", generate)
    seen = _sightings(rehearsal.folder / "shapes.png")
    rehearsal.expect(seen == [("green", "star")], f"green star: {seen}")
    rehearsal.type(who, "looks at what runs where", "darkroom status")
    rehearsal.type(who, "has the machine checked", "darkroom doctor || true")


def assistant_builder(rehearsal: Rehearsal, url: str, key: str) -> None:
    """Connects an assistant, by MCP and by OpenAI's client."""
    who = "assistants"
    rehearsal.read(who, "docs/tutorials/assistants.md")
    (rehearsal.folder / "assistant.py").write_text(MCP_PROGRAM)
    (rehearsal.folder / "with_openai.py").write_text(OPENAI_PROGRAM)
    described = rehearsal.type(who, "reads what there is", f"curl -fsS {url}/llms.txt")
    rehearsal.expect("fal-ai/flux/schnell" in described, "endpoint in llms.txt")
    rehearsal.client(who, "mcp", "mcp", "httpx2")
    printed = rehearsal.type(
        who, "lists the tools and generates by MCP", f"python assistant.py {url} {key}"
    )
    rehearsal.expect("generate" in printed and "image" in printed, f"image by MCP: {printed}")
    rehearsal.client(who, "openai", "openai")
    printed = rehearsal.type(
        who, "generates by OpenAI's client", f"python with_openai.py {url} {key}"
    )
    rehearsal.expect(printed.strip(), "image by OpenAI's client")


def _sightings(path: Path) -> list[tuple[str, str]]:
    return sorted((sight.colour, sight.shape) for sight in read(Image.open(path)).sights)
