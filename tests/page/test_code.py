"""The programs that the page shows send the same request as the page."""

from __future__ import annotations

import ast
import base64
import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image
from playwright.sync_api import Page, expect

from serve_app.catalog.catalog import load
from tests.ingress.house import DEMO, OTHERS
from tests.node import node, packages
from tests.page.darkroom import page_darkroom
from tests.page.reader import Reader, box_of, select_past

pytestmark = pytest.mark.long

JAVASCRIPT = Path(__file__).parents[1] / "wire" / "javascript"
PRINT_JSON = "console.log(JSON.stringify(data))"  # Node's own format is not JSON
SEED = 18446744073709551557
LIST_TOOLS = """
import asyncio, sys
import httpx2
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

async def main():
    headers = {"Authorization": sys.argv[2]}
    async with (
        httpx2.AsyncClient(headers=headers, timeout=30) as http,
        Client(streamable_http_client(sys.argv[1], http_client=http)) as client,
    ):
        print(*(each.name for each in (await client.list_tools()).tools))

asyncio.run(main())
"""
AWKWARD = 'it\'s "$HOME" `date` \\ $(id) ünï 😀'


def show_program(reader: Reader, language: str) -> str:
    reader.page.get_by_role("button", name=language, exact=True).click()
    expect(reader.page.get_by_role("button", name=language, exact=True)).to_have_attribute(
        "aria-pressed", "true"
    )
    return reader.page.locator("dialog pre").inner_text()


@pytest.fixture
def code_page(reader: Reader) -> Reader:
    """Page with the code dialog open for a filled form."""
    reader.field("prompt").fill(AWKWARD)
    reader.field("image_size").select_option("square")
    reader.unfold()
    reader.field("seed").fill(str(SEED))
    reader.page.locator("#code-button").click()
    return reader


def ran(reader: Reader, command: list[str], cwd: Path) -> str:
    done = subprocess.run(
        command,
        cwd=cwd,
        env={"PATH": os.environ["PATH"], "FAL_KEY": reader.darkroom.key},  # noqa: TID251
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def inputs(reader: Reader) -> dict[str, Any]:
    """Input of the only request, after its defaults were filled in."""
    headers = {"authorization": f"Key {reader.darkroom.key}"}
    url = f"{reader.darkroom.url}/v1/requests"
    (request,) = httpx.get(url, headers=headers).json()["requests"]
    return httpx.get(f"{url}/{request['request_id']}", headers=headers).json()["input"]


def read_input(reader: Reader) -> dict[str, Any]:
    """Parts of the input of the only request."""
    sent_input = inputs(reader)
    assert sent_input["image_size"] in ("square", {"width": 512, "height": 512})
    return {name: sent_input.get(name) for name in ("prompt", "seed", "num_images")}


def assert_made(output: dict[str, Any]) -> None:
    assert output["prompt"] == AWKWARD
    assert output["seed"] == SEED
    assert (output["images"][0]["width"], output["images"][0]["height"]) == (512, 512)


def test_the_python_program_makes_the_same_image(code_page: Reader, tmp_path: Path) -> None:
    script, program = tmp_path / "call.py", show_program(code_page, "Python")
    script.write_text(program)
    match = re.search(r"curl -O (\S+/fal_plain_http\.py)", program)
    assert match is not None
    # What curl fetches lies beside the script, as on a machine that has fal's client only.
    (tmp_path / "fal_plain_http.py").write_bytes(httpx.get(match[1]).content)
    assert_made(ast.literal_eval(ran(code_page, [sys.executable, str(script)], tmp_path)))


def test_an_empty_form_is_shown_as_the_program_of_an_example(page: Page) -> None:
    catalog = load(None, demo=True, demo_dir=DEMO, families=("flux",))
    with page_darkroom(catalog=catalog, painting=False) as darkroom:
        reader = Reader(page, darkroom)
        reader.enter()
        page.locator("#code-button").click()
        assert "a red circle above a blue square" in show_program(reader, "Python")


@pytest.mark.skipif(shutil.which("curl") is None, reason="There is no curl: apt-get install curl.")
def test_the_curl_call_makes_the_same_image(code_page: Reader, tmp_path: Path) -> None:
    script = tmp_path / "call.sh"
    script.write_text(show_program(code_page, "curl"))
    assert_made(json.loads(ran(code_page, ["sh", str(script)], tmp_path)))


def test_the_javascript_program_makes_such_an_image(reader: Reader, tmp_path: Path) -> None:
    reader.field("prompt").fill(AWKWARD)
    reader.page.locator("#code-button").click()
    (tmp_path / "node_modules").symlink_to(packages(JAVASCRIPT))
    program = show_program(reader, "JavaScript").replace("console.log(data)", PRINT_JSON)
    assert PRINT_JSON in program
    (tmp_path / "call.mjs").write_text(program)
    output = json.loads(ran(reader, [node(), "call.mjs"], tmp_path))
    assert output["prompt"] == AWKWARD
    assert output["images"][0]["url"].startswith(reader.darkroom.url)


def test_the_javascript_program_names_this_address_and_warns_of_the_seed(code_page: Reader) -> None:
    program = show_program(code_page, "JavaScript")
    assert f'url: "{code_page.darkroom.url}/fal/proxy"' in program
    assert f'"prompt": {json.dumps(AWKWARD, ensure_ascii=False)}' in program
    assert "JavaScript rounds whole numbers over 2^53" in program


def test_the_typescript_program_makes_such_an_image(reader: Reader, tmp_path: Path) -> None:
    reader.field("prompt").fill(AWKWARD)
    reader.page.locator("#code-button").click()
    (tmp_path / "node_modules").symlink_to(packages(JAVASCRIPT))
    program = show_program(reader, "TypeScript").replace("console.log(data)", PRINT_JSON)
    assert "as { data: Output }" in program
    (tmp_path / "call.mts").write_text(program)
    command = [node(), "--experimental-strip-types", "call.mts"]
    output = json.loads(ran(reader, command, tmp_path))
    assert output["prompt"] == AWKWARD


@pytest.mark.skipif(shutil.which("curl") is None, reason="There is no curl: apt-get install curl.")
def test_the_calls_of_the_queue_make_the_same_image(code_page: Reader, tmp_path: Path) -> None:
    (tmp_path / "call.sh").write_text(show_program(code_page, "HTTP queue"))
    assert_made(json.loads(ran(code_page, ["sh", "call.sh"], tmp_path)))


def test_the_program_for_openais_client_makes_the_same_image(
    code_page: Reader, tmp_path: Path
) -> None:
    expect(code_page.page.get_by_role("dialog")).to_be_visible()
    code_page.page.keyboard.press("Escape")
    code_page.field("num_images").fill("2")
    code_page.page.locator("#code-button").click()
    (tmp_path / "call.py").write_text(show_program(code_page, "OpenAI"))
    urls = ran(code_page, [sys.executable, "call.py"], tmp_path).split()
    assert len(urls) == 2
    assert all(url.startswith(f"{code_page.darkroom.url}/files/") for url in urls)
    assert read_input(code_page) == {"prompt": AWKWARD, "seed": SEED, "num_images": 2}


@pytest.mark.parametrize("local", [True, False])
def test_the_program_for_openais_client_edits_an_image(
    page: Page, tmp_path: Path, *, local: bool
) -> None:
    picture = io.BytesIO()
    Image.new("RGB", (64, 64), "teal").save(picture, "PNG")
    (tmp_path / "image.png").write_bytes(picture.getvalue())
    with page_darkroom(catalog=OTHERS) as darkroom:
        reader = Reader(page, darkroom)
        reader.enter("fal-ai/fast-sdxl/image-to-image")
        reader.field("prompt").fill(AWKWARD)
        reader.unfold()
        reader.field("seed").fill(str(SEED))
        if local:
            chosen = tmp_path / "image.png"
            reader.page.locator("input[type=file]").first.set_input_files(chosen)
            expect(reader.page.locator(".media-preview img")).to_be_visible()
        else:
            address = f"{darkroom.url}/page/icons/icon-192.png"
            reader.field("image_url").fill(address)
        reader.page.locator("#code-button").click()
        (tmp_path / "call.py").write_text(show_program(reader, "OpenAI"))
        (url,) = ran(reader, [sys.executable, "call.py"], tmp_path).split()
        assert url.startswith(f"{darkroom.url}/files/")
        sent_input = inputs(reader)
    assert (sent_input["prompt"], sent_input["seed"]) == (AWKWARD, SEED)
    kind, _, content = sent_input["image_url"].partition(",")
    assert kind == "data:image/png;base64"
    if local:
        assert base64.b64decode(content) == picture.getvalue()


def test_the_program_for_openais_client_makes_a_video(page: Page, tmp_path: Path) -> None:
    with page_darkroom(catalog=OTHERS) as darkroom:
        reader = Reader(page, darkroom)
        reader.enter("test/videos")
        input_json = json.dumps({"prompt": AWKWARD, "seed": SEED})
        reader.page.locator("#fields textarea").fill(input_json)
        reader.page.locator("#code-button").click()
        (tmp_path / "call.py").write_text(show_program(reader, "OpenAI"))
        assert ran(reader, [sys.executable, "call.py"], tmp_path) == "video.mp4\n"
        assert (tmp_path / "video.mp4").read_bytes() == b"image"
        response = reader.page.request.get(
            f"{darkroom.url}/v1/requests", headers={"authorization": f"Key {darkroom.key}"}
        )
        assert response.json()["requests"][0]["prompt"] == AWKWARD


def test_the_program_for_replicates_client_makes_the_same_image(
    code_page: Reader, tmp_path: Path
) -> None:
    (tmp_path / "call.py").write_text(show_program(code_page, "Replicate"))
    (name,) = ran(code_page, [sys.executable, "call.py"], tmp_path).split()
    assert name in ("output_0.png", "output_0.jpeg", "output_0.jpg")
    assert (tmp_path / name).stat().st_size > 1000
    assert read_input(code_page) == {"prompt": AWKWARD, "seed": SEED, "num_images": 1}


def test_the_configuration_for_assistants_leads_to_the_tools(
    code_page: Reader, tmp_path: Path
) -> None:
    text = show_program(code_page, "MCP")
    server = json.loads(text[text.index("\n{") :])["mcpServers"]["darkroom"]
    assert f"claude mcp add --transport http darkroom {server['url']} --header" in text
    (tmp_path / "call.py").write_text(LIST_TOOLS)
    header = server["headers"]["Authorization"].replace("${env:FAL_KEY}", code_page.darkroom.key)
    tools = ran(code_page, [sys.executable, "call.py", server["url"], header], tmp_path).split()
    assert {"list_models", "generate"} <= set(tools)


def test_the_input_is_changed_as_json_and_used_in_the_form(code_page: Reader) -> None:
    code_page.page.get_by_role("button", name="JSON", exact=True).click()
    box = code_page.page.get_by_label("Input as JSON")
    fields = json.loads(box.input_value())
    assert (fields["prompt"], fields["seed"]) == (AWKWARD, SEED)
    use = code_page.page.get_by_role("button", name="Use in the form")
    for wrong, words in (("{", "This is not JSON"), ("[1]", "An input is an object")):
        box.fill(wrong)
        use.click()
        expect(code_page.page.get_by_role("alert")).to_contain_text(words)
    box.fill(json.dumps({"prompt": "a lake", "num_images": 2}))
    use.click()
    expect(code_page.page.get_by_role("dialog")).to_be_hidden()
    expect(code_page.field("prompt")).to_have_value("a lake")
    expect(code_page.field("num_images")).to_have_value("2")
    expect(code_page.field("seed")).to_have_value("")
    code_page.page.locator("#code-button").click()
    expect(box).to_have_value(re.compile('"prompt": "a lake"'))


def test_a_click_beside_the_json_does_not_lose_it(code_page: Reader) -> None:
    page = code_page.page
    page.get_by_role("button", name="JSON", exact=True).click()
    box = page.get_by_label("Input as JSON")
    box.fill('{"prompt": "a lake"}')
    dialog = page.get_by_role("dialog")
    select_past(dialog, box)
    left, top, *_ = box_of(dialog)
    page.mouse.click(left - 30, top + 8)
    expect(dialog).to_be_visible()
    expect(box).to_have_value('{"prompt": "a lake"}')


def test_only_the_clients_that_an_endpoint_suits_are_offered(reader: Reader) -> None:
    names = reader.page.evaluate(
        """async () => {
            const { languagesOf } = await import("/page/code/code.js");
            const kinds = ["text-to-image", "text-to-audio", "image-to-image"];
            return kinds.map(languagesOf);
        }"""
    )
    assert "openai" in names[0]
    assert "openai" not in names[1]
    assert "openai" in names[2]


def test_the_program_is_copied(code_page: Reader) -> None:
    code_page.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    program = show_program(code_page, "curl")
    code_page.page.get_by_role("button", name="Copy").click()
    expect(code_page.page.get_by_role("button", name="Copied")).to_be_visible()
    assert code_page.page.evaluate("() => navigator.clipboard.readText()") == program


@pytest.mark.skipif(shutil.which("curl") is None, reason="There is no curl: apt-get install curl.")
def test_a_file_in_the_input_is_read_by_the_program(
    reader: Reader, page: Page, tmp_path: Path
) -> None:
    (tmp_path / "image.png").write_bytes(b"\x89PNG of ours")
    call = {
        "endpoint": "test/probe",
        "base": reader.darkroom.url,
        "input": {"echo": {"image_url": "data:image/png;base64,AAAA", "text": AWKWARD}},
    }
    programs: dict[str, str] = page.evaluate(
        """async (call) => {
            const { codeFor, LANGUAGES } = await import("/page/code/code.js");
            const names = Object.keys(LANGUAGES);
            return Object.fromEntries(names.map((each) => [each, codeFor(each, call)]));
        }""",
        call,
    )
    expected = {"image_url": "data:image/png;base64,iVBORyBvZiBvdXJz", "text": AWKWARD}
    (tmp_path / "call.py").write_text(programs["python"])
    output = ast.literal_eval(ran(reader, [sys.executable, "call.py"], tmp_path))
    assert output["echo"] == expected
    (tmp_path / "call.sh").write_text(programs["curl"])
    assert json.loads(ran(reader, ["sh", "call.sh"], tmp_path))["echo"] == expected
    assert 'readFileSync("image.png", "base64")' in programs["javascript"]
