"""What the pages show is what happens: their blocks marked ``run``, in order, at a real Darkroom.

Each page is one shell session in a folder of its own. A block that begins with a comment that names
a file is saved under that name; other programs run. The output of a transcript is compared: ``…``
stands for anything in a line, and a line of its own for any lines.
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from serve_app.cli.serve import haproxy
from tests.cluster.darkroom import Darkroom, clean_environment, eventually
from tests.docs.pages import DOCS, ROOT, Block, all_blocks, name
from tests.docs.shell import steps
from tests.docs.test_snippets import TASKS
from tests.node import node, packages

pytestmark = [pytest.mark.cluster, pytest.mark.long]

SHOWN_AT = "127.0.0.1:8000"
NOWHERE = "http://127.0.0.1:9"
FIRST = DOCS / "tutorials" / "first-image.md"
FINE_TUNE = DOCS / "tutorials" / "serve-your-fine-tune.md"
ITS_WEIGHTS = "/srv/weights/portraits"
DEMO = ROOT / "deployments" / "demo" / "flux"
FAMILIES = ["flux", "sdxl", "video", "audio"]
FILE_NAME = re.compile(r"(?:#|//) ([\w-]+\.(?:py|mjs|yaml))\n")
PAGES = [page for page in TASKS if any(block.mark == "run" for block in all_blocks(page))]


@dataclass
class Session:
    """A shell script that says which step begins, and how each ended."""

    folder: Path
    address: str
    lines: list[str] = field(default_factory=list)
    expected: list[tuple[str, str | None]] = field(default_factory=list)

    def add(self, command: str, output: str | None) -> None:
        """``output`` None: it only has to succeed."""
        number = len(self.expected)
        here = command.replace(SHOWN_AT, self.address)
        self.lines += [
            f"echo; echo '<<< {number}'",
            f"{{ {here}\n}} 2>&1",
            f'status=$?; echo; echo ">>> {number} $status"',
        ]
        self.expected.append((command, output))

    def save(self, block: Block, file_name: str) -> None:
        (self.folder / file_name).write_text(block.text.replace(SHOWN_AT, self.address))

    def block(self, block: Block) -> None:
        if file := FILE_NAME.match(block.text):
            self.save(block, file[1])
            return
        match block.language:
            case "console":
                for step in steps(block.text):
                    self.add(step.command, step.output)
            case "sh":
                self.add(block.text.rstrip(), None)
            case "python" | "javascript" as language:
                file_name = f"block{len(self.expected)}" + (
                    ".py" if language == "python" else ".mjs"
                )
                self.save(block, file_name)
                self.add(f"{'python' if language == 'python' else 'node'} {file_name}", None)
            case _:
                pytest.fail(f"{name(block.page)}: {block.language} cannot be run")


def matches(shown: str, output: str) -> bool:
    pattern = ""
    for line in shown.strip("\n").splitlines():
        if line.strip() == "…":
            pattern += r"(?:.*\n)*?"
        else:
            pattern += (
                ".*".join(re.escape(part.rstrip()) for part in line.split("…")) + r"[^\S\n]*\n"
            )
    return re.fullmatch(pattern, f"{output.strip(chr(10))}\n" if output.strip() else "") is not None


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def installation(home: Path) -> Iterator[Darkroom]:
    """Demo models, and the endpoint of the tutorial over one of them."""
    if not haproxy.available():
        pytest.skip("no HAProxy for this machine")
    (shown, *_) = (block for block in all_blocks(FINE_TUNE) if block.language == "yaml")
    models = home / "models.yaml"
    models.write_text(shown.text.replace(ITS_WEIGHTS, str(DEMO)))
    running = Darkroom(
        home / ".darkroom",
        {"studio": {"families": FAMILIES, "slots": 2}},
        models=str(models),
        families="{}",
        allow_private_webhooks="0",
    )
    try:
        yield running.start()
        running.stop()
    finally:
        running.clear_away()


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of ``darkroom``, ``python`` and ``node``."""
    folder = tmp_path_factory.mktemp("bin")
    python = shlex.quote(sys.executable)
    for program, command in {
        "python": python,
        "darkroom": f"{python} -m serve_app.cli",
        "node": shlex.quote(node()),
    }.items():
        path = folder / program
        path.write_text(f'#!/bin/sh\nexec {command} "$@"\n')
        path.chmod(0o755)
    return folder


def test_the_start_prints_what_the_tutorial_shows(installation: Darkroom, home: Path) -> None:
    (shown,) = (
        block
        for block in all_blocks(FIRST)
        if test_the_start_prints_what_the_tutorial_shows.__name__ in block.mark
    )
    (start,) = steps(shown.text)
    # It serves before it has greeted.
    eventually(lambda: "Press Ctrl-C" in installation.output.read_text(), "the welcome is printed")
    # The replica logs when it is ready, which may be between any two lines.
    printed = re.sub(
        r"^\S+Z INFO +deployments\..*\n", "", installation.output.read_text(), flags=re.M
    )
    ports = json.loads((installation.data_dir / "run.json").read_text())
    for url, shown_at in (
        (installation.url, f"http://{SHOWN_AT}"),
        (ports["tls_url"], "https://127.0.0.1:8443"),
        (ports["proxy_url"], "http://127.0.0.1:8128"),
        (str(home), "~"),
    ):
        printed = printed.replace(url, shown_at)
    assert matches(start.output, printed), printed


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_a_page_does_what_it_shows(
    page: Path, installation: Darkroom, home: Path, programs: Path, tmp_path: Path
) -> None:
    address = installation.url.removeprefix("http://")
    if any(
        snippet.language == "javascript" and snippet.mark == "run" for snippet in all_blocks(page)
    ):
        (tmp_path / "node_modules").symlink_to(packages(ROOT / "tests" / "wire" / "javascript"))
    session = Session(tmp_path, address)
    for block in all_blocks(page):
        if block.mark == "run":
            session.block(block)
    environment = clean_environment()
    done = subprocess.run(
        ["bash", "-c", "\n".join(session.lines)],
        cwd=tmp_path,
        env=environment
        | {
            "HOME": str(home),
            "PATH": f"{programs}:{environment['PATH']}",
            "PYTHONPATH": str(ROOT),
            "FAL_KEY": installation.key,
            # What does not come here fails at once, and goes nowhere else.
            "HTTPS_PROXY": NOWHERE,
            "https_proxy": NOWHERE,
            "NO_PROXY": "localhost,127.0.0.1",
        },
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    printed = done.stdout.replace(address, SHOWN_AT).replace(str(home), "~")
    for number, (command, shown) in enumerate(session.expected):
        match = re.search(rf"^<<< {number}\n(.*?)\n>>> {number} (\d+)$", printed, re.M | re.S)
        assert match is not None, f"{command} did not run; {printed[-2000:]}"
        output, status = match.groups()
        if shown is None:
            assert status == "0", f"{command}\n{output}"
        else:
            assert matches(shown, output), f"{command}\n--- shown\n{shown}\n--- is\n{output}"
