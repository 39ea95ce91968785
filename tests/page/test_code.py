"""The programs that the page shows send the same request as the page."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.node import node, packages
from tests.page.reader import Reader

JAVASCRIPT = Path(__file__).parents[1] / "wire" / "javascript"
PRINT_JSON = "console.log(JSON.stringify(data))"  # Node's own format is not JSON
AWKWARD = 'it\'s "$HOME" `date` \\ $(id) ünï 😀'


def shown(reader: Reader, language: str) -> str:
    reader.page.get_by_role("button", name=language, exact=True).click()
    expect(reader.page.get_by_role("button", name=language, exact=True)).to_have_attribute(
        "aria-pressed", "true"
    )
    return reader.page.locator("#program").inner_text()


@pytest.fixture
def filled(reader: Reader) -> Reader:
    """Page with the code dialog open for a filled form."""
    reader.field("prompt").fill(AWKWARD)
    reader.field("image_size").select_option("square")
    reader.unfold()
    reader.field("seed").fill("18446744073709551557")
    reader.page.locator("#code-button").click()
    return reader


def ran(reader: Reader, command: list[str], cwd: Path) -> str:
    done = subprocess.run(
        command,
        cwd=cwd,
        env={"PATH": os.environ["PATH"], "FAL_KEY": reader.darkroom.key},  # noqa: TID251
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def assert_made(output: dict[str, Any]) -> None:
    assert output["prompt"] == AWKWARD
    assert output["seed"] == 18446744073709551557
    assert (output["images"][0]["width"], output["images"][0]["height"]) == (512, 512)


def test_the_python_program_makes_the_same_image(filled: Reader, tmp_path: Path) -> None:
    script = tmp_path / "call.py"
    script.write_text(shown(filled, "Python"))
    assert_made(ast.literal_eval(ran(filled, [sys.executable, str(script)], tmp_path)))


@pytest.mark.skipif(shutil.which("curl") is None, reason="There is no curl: apt-get install curl.")
def test_the_curl_call_makes_the_same_image(filled: Reader, tmp_path: Path) -> None:
    script = tmp_path / "call.sh"
    script.write_text(shown(filled, "curl"))
    assert_made(json.loads(ran(filled, ["sh", str(script)], tmp_path)))


def test_the_javascript_program_makes_such_an_image(reader: Reader, tmp_path: Path) -> None:
    reader.field("prompt").fill(AWKWARD)
    reader.page.locator("#code-button").click()
    (tmp_path / "node_modules").symlink_to(packages(JAVASCRIPT))
    program = shown(reader, "JavaScript").replace("console.log(data)", PRINT_JSON)
    assert PRINT_JSON in program
    (tmp_path / "call.mjs").write_text(program)
    output = json.loads(ran(reader, [node(), "call.mjs"], tmp_path))
    assert output["prompt"] == AWKWARD
    assert output["images"][0]["url"].startswith(reader.darkroom.url)


def test_the_javascript_program_names_this_address_and_warns_of_the_seed(filled: Reader) -> None:
    program = shown(filled, "JavaScript")
    assert f'const base = "{filled.darkroom.url}";' in program
    assert f'"prompt": {json.dumps(AWKWARD, ensure_ascii=False)}' in program
    assert "JavaScript rounds whole numbers over 2^53" in program


def test_the_program_is_copied(filled: Reader) -> None:
    filled.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    program = shown(filled, "curl")
    filled.page.get_by_role("button", name="Copy").click()
    expect(filled.page.get_by_role("button", name="Copied")).to_be_visible()
    assert filled.page.evaluate("() => navigator.clipboard.readText()") == program


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
