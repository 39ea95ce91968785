"""Every block of code in the docs is read by a test, and says which one runs it."""

from __future__ import annotations

import json
import logging
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from deployments.families.registry import FAMILIES
from serve_app.catalog.catalog import load
from serve_app.catalog.entries import EntryOrigin
from serve_app.telemetry import logs
from tests.docs.pages import DOCS, PAGES, ROOT, Block, all_blocks, blocks, fence_lines, name
from tests.docs.shell import steps
from tests.docs.test_matrix import named_in
from tests.docs.test_monitoring import REAL
from tests.node import node

NOT_RUN = frozenset(
    {
        "a GPU",
        "Docker",
        "a certificate",
        "a cluster",
        "a receiver",
        "a restart",
        "a second terminal",
        "a signed file",
        "a trained LoRA",
        "it deletes",
        "it does not end",
        "it would run itself",
        "it writes a file",
        "another machine",
        "another program",
        "another service",
        "the key of the last step",
        "the network",
        "your code",
    }
)
"""What a block may need that the tests do not have."""

RUNNABLE = frozenset({"python", "javascript", "sh", "console", "yaml", "diff"})
TASKS = tuple(
    page
    for page in PAGES
    if page == ROOT / "README.md" or page.parent.name in {"tutorials", "how-to"}
)
EVERY = [block for page in PAGES if page.parent.name != "adr" for block in all_blocks(page)]
DEMO = ROOT / "deployments" / "demo"


def of(*languages: str) -> list[Block]:
    return [block for block in EVERY if block.language in languages]


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_no_block_is_overlooked(page: Path) -> None:
    assert fence_lines(page) == 2 * len(all_blocks(page))


def check_python(text: str) -> None:
    compile(text, "docs", "exec")


def check_javascript(text: str) -> None:
    _passes([node(), "--input-type=module", "--check"], text)


def check_sh(text: str) -> None:
    _passes(["bash", "-n"], text)


def check_console(text: str) -> None:
    for step in steps(text):
        check_sh(step.command)


def check_yaml(text: str) -> None:
    assert isinstance(yaml.safe_load(text), dict | list)


def check_diff(text: str) -> None:
    """Each side is a program."""
    assert all(line[:1] in {"+", "-", " ", ""} for line in text.splitlines())
    for gone in "+-":
        lines = [line[1:] for line in text.splitlines() if not line.startswith(gone)]
        check_python("\n".join(lines))


def nothing(_: str) -> None:
    """Shown only."""


CHECKS: dict[str, Callable[[str], object]] = {
    "console": check_console,
    "diff": check_diff,
    "http": nothing,
    "javascript": check_javascript,
    "json": json.loads,
    "mermaid": nothing,
    "python": check_python,
    "sh": check_sh,
    "sql": nothing,
    "text": nothing,
    "yaml": check_yaml,
}


def _passes(command: list[str], text: str) -> None:
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.variants(32)
@pytest.mark.parametrize("block", EVERY, ids=str)
def test_a_block_is_what_its_language_says(block: Block) -> None:
    assert block.language in CHECKS, f"{name(block.page)}: name the language of the block"
    CHECKS[block.language](block.text)


@pytest.mark.parametrize("page", TASKS, ids=name)
def test_a_block_of_a_task_is_run_or_says_why_not(page: Path) -> None:
    unmarked = [
        str(block) for block in all_blocks(page) if block.language in RUNNABLE and not block.mark
    ]
    assert unmarked == []


SAVED = [
    (block, named[1])
    for page in TASKS
    for block in all_blocks(page)
    if block.mark == "run" and (named := re.match(r"(?:#|//) ([\w-]+\.(?:py|mjs))\n", block.text))
]


@pytest.mark.parametrize(("block", "file"), SAVED, ids=str)
def test_a_program_that_is_saved_is_run(block: Block, file: str) -> None:
    commands = [fenced.text for fenced in blocks(block.page, "console")]
    assert any(file in command for command in commands), f"{name(block.page)}: {file}"


@pytest.mark.variants(91)
@pytest.mark.parametrize("block", [fenced for fenced in EVERY if fenced.mark], ids=str)
def test_a_mark_is_one_that_there_is(block: Block) -> None:
    kind, _, rest = block.mark.partition(":")
    if kind == "run":
        assert block.page in TASKS
    elif kind == "not run":
        assert rest.strip() in NOT_RUN
    else:
        named = block.mark.removeprefix("tested by ")
        file, separator, test = named.partition("::")
        assert separator, f"{name(block.page)}: {block.mark}"
        assert test in named_in(file), named


@pytest.mark.variants(1)
@pytest.mark.parametrize(
    "block", [fenced for fenced in of("yaml") if fenced.text.find("\nendpoints:") >= 0], ids=str
)
def test_a_catalogue_of_the_docs_loads(block: Block, tmp_path: Path) -> None:
    path = tmp_path / "models.yaml"
    path.write_text(block.text)
    families = {*FAMILIES, *re.findall(r"^    family: (\w+)$", block.text, re.M)}
    for entry in load(path, demo=False, demo_dir=DEMO, families=families):
        assert entry.origin is not EntryOrigin.FILE or not entry.missing, entry.missing


def test_the_prometheus_configuration_names_real_metrics() -> None:
    text = (DOCS / "how-to" / "monitor.md").read_text()
    named = set(re.findall(r"\bdarkroom_[a-z_]+[a-z]\b", text))
    assert len(named) >= 20
    assert named <= {part for metric in REAL for part in (metric, metric.removesuffix("_bucket"))}


def test_the_json_log_line_of_the_docs_is_one_of_the_log() -> None:
    (block,) = blocks(DOCS / "how-to" / "monitor.md", "json")
    shown = json.loads(block.text)
    record = logging.LogRecord(shown["logger"], logging.INFO, "", 0, shown["message"], None, None)
    with logs.log_context(shown["request_id"]):
        logs.describe(shown["request_id"], tenant=shown["tenant"], endpoint=shown["endpoint"])
        written = logs.JsonFormatter().format(record)
    assert json.loads(written) == shown | {"at": json.loads(written)["at"]}
    assert list(json.loads(written)) == list(shown)


def test_the_log_line_of_the_docs_has_the_form_of_the_log() -> None:
    (block,) = blocks(DOCS / "how-to" / "monitor.md", "text")
    form = re.compile(r"(\S+)Z (INFO) +(\S+) \[(\S+)\] (.+)\n")
    matched = form.fullmatch(block.text)
    assert matched is not None
    _, level, logger, request_id, message = matched.groups()
    record = logging.LogRecord(logger, logging.INFO, "", 0, message, None, None)
    assert level == record.levelname
    with logs.log_context(request_id):
        line = logs.LineFormatter().format(record)
    assert line.split(" ", 1)[1] == block.text.strip().split(" ", 1)[1]
