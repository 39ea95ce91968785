"""``darkroom batch``: run many requests from a file while nothing else waits."""

from __future__ import annotations

import json
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import click

from serve_app.cli.batches.files import (
    METADATA,
    BatchSource,
    make_folder,
    read_source,
    save_results,
)
from serve_app.cli.connection import completion, options
from serve_app.cli.connection.client import ApiFailure, Client
from serve_app.cli.connection.command_group import CommandGroup
from serve_app.cli.connection.progress_line import ProgressLine
from serve_app.cli.connection.server import Server
from serve_app.cli.connection.text import counted, echo, one_line
from serve_app.domain.errors import DarkroomError

BATCHES, FILES = "/openai/v1/batches", "/openai/v1/files"
FINAL = frozenset({"completed", "failed", "expired", "cancelled"})
RESUMED = frozenset({"validating", "in_progress", "finalizing", "completed"})
MAX_COST = "max_cost"
"""Key in the metadata of a batch: the value of ``--max-cost``."""
POLL_S = 1.0
PAGE = 100


class BatchNotDone(DarkroomError):
    """The batch has ended, and not all of its lines succeeded."""

    code = "batch_not_done"


@click.group("batch", cls=CommandGroup)
def batch_group() -> None:
    """Run many requests from a file while nothing else waits."""


@batch_group.command("run")
@options.server
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False, exists=True))
@click.option(
    "--endpoint",
    metavar="ENDPOINT",
    shell_complete=completion.endpoints,
    help="Endpoint whose inputs the lines are. Default: the lines are those of OpenAI's batches.",
)
@click.option(
    "-o",
    "--output",
    "out",
    type=click.Path(path_type=Path, file_okay=False),
    help="Directory for results and files. Default: the name of FILE with `-results`.",
)
@click.option(
    "--max-cost",
    metavar="AMOUNT",
    help="Limit of the cost of all lines together, such as 5 or '5 EUR'. Above it, nothing runs.",
)
@click.option("--again", is_flag=True, help="Run the file again, although it was run before.")
@options.as_json
def run_command(
    server: Server,
    file: Path,
    endpoint: str | None,
    out: Path | None,
    max_cost: str | None,
    *,
    again: bool,
    as_json: bool,
) -> None:
    """Run the lines of FILE and write their results to a directory.

    The same command continues a batch that was begun: what is done is not repeated. Ctrl-C stops
    waiting, and the batch continues.
    """
    source = read_source(file, endpoint)
    folder = out or file.with_name(f"{file.stem}-results")
    with Client(server) as client:
        earlier = None if again else _earlier(client, source)
        if earlier and max_cost != (earlier["metadata"] or {}).get(MAX_COST):
            _say("The batch was begun before, and keeps its --max-cost.", as_json=as_json)
        make_folder(folder)
        batch = earlier or _create(client, source, file.name, max_cost)
        _say(f"{batch['id']}: {counted(len(source.names), 'line')}", as_json=as_json)
        with _resumable(batch["id"], again=again):
            batch = _wait(client, batch, as_json=as_json)
            with ProgressLine("Saving the results"):
                saved = save_results(client, batch, folder)
    if as_json:
        echo(json.dumps({"batch": batch, "directory": str(folder), "files": saved}))
    else:
        echo(f"{summary(batch)}. {saved} files are in {folder}.")
    raise_unless_done(batch, folder)


@batch_group.command("list")
@options.server
@options.before
@options.limit(PAGE, 20)
@options.as_json
def list_command(server: Server, before: str | None, limit: int, *, as_json: bool) -> None:
    """List batches, newest first."""
    with Client(server) as client:
        answer = client.get(BATCHES, after=before, limit=limit)
    if as_json:
        echo(json.dumps(answer))
        return
    for batch in answer["data"]:
        at = datetime.fromtimestamp(batch["created_at"], UTC)
        echo(f"{batch['id']}  {at:%Y-%m-%d %H:%M}  {summary(batch)}  {batch['endpoint']}")


@batch_group.command("show")
@options.server
@click.argument("batch_id")
@options.as_json
def show_command(server: Server, batch_id: str, *, as_json: bool) -> None:
    """Show a batch, and why its file was refused."""
    with Client(server) as client:
        answer = client.get(f"{BATCHES}/{quote(batch_id, safe='')}")
    for line in [json.dumps(answer)] if as_json else _lines(answer):
        echo(line)


@batch_group.command("cancel")
@options.server
@click.argument("batch_id")
@options.as_json
def cancel_command(server: Server, batch_id: str, *, as_json: bool) -> None:
    """Cancel what waits or runs of a batch. Results until then are kept."""
    with Client(server) as client:
        answer = client.post(f"{BATCHES}/{quote(batch_id, safe='')}/cancel", {})
    echo(json.dumps(answer) if as_json else f"{batch_id}: {summary(answer)}")


def summary(batch: dict[str, Any]) -> str:
    """State of a batch in a few words."""
    counts = batch["request_counts"]
    failed = f", {counts['failed']} failed" if counts["failed"] else ""
    return f"{batch['status']}, {counts['completed']} of {counts['total']} done{failed}"


def _lines(batch: dict[str, Any]) -> Iterator[str]:
    yield f"{batch['id']}: {summary(batch)}"
    for name in ("endpoint", "input_file_id", "output_file_id", "error_file_id"):
        if batch[name]:
            yield f"{name}: {batch[name]}"
    yield from problems_of(batch)


def problems_of(batch: dict[str, Any]) -> Iterator[str]:
    """Lines for what is wrong in the batch's file."""
    for error in (batch["errors"] or {"data": []})["data"]:
        where = "" if error["line"] is None else f"line {error['line']}: "
        yield f"{where}{one_line(error['message'])}"


def raise_unless_done(batch: dict[str, Any], folder: Path) -> None:
    """Raise ``BatchNotDone`` unless all lines of a batch that has ended succeeded.

    ``folder``: where its results are.
    """
    counts = batch["request_counts"]
    if batch["status"] == "failed":
        problems = "\n".join(problems_of(batch))
        raise BatchNotDone(f"The file was refused, and nothing ran.\n{problems}")
    if counts["failed"]:
        raise BatchNotDone(
            f"{counted(counts['failed'], 'line')} failed: see {folder / 'errors.jsonl'}."
        )
    if counts["completed"] < max(1, counts["total"]):  # it ended while its file was checked
        done = f"{counts['completed']} of {counts['total']} lines are done"
        raise BatchNotDone(
            f"The batch is {batch['status']}, and {done}. To run the file, run the command again."
        )


def _earlier(client: Client, source: BatchSource) -> dict[str, Any] | None:
    """Newest batch of the same lines, if it runs or was completed."""
    after: str | None = None
    while True:
        page = client.get(BATCHES, after=after, limit=PAGE)
        for batch in page["data"]:
            same = (batch["metadata"] or {}).get(METADATA) == source.digest
            if same and batch["status"] in RESUMED:
                return dict(batch)
        if not page["has_more"]:
            return None
        after = page["last_id"]


def _create(client: Client, source: BatchSource, name: str, max_cost: str | None) -> dict[str, Any]:
    fields = {"purpose": "batch"}
    file = client.post_form(FILES, name, source.content, fields)
    metadata = {METADATA: source.digest, "file": name[:512]}
    headers = dict[str, str]()
    if max_cost is not None:
        metadata[MAX_COST] = max_cost[:512]
        headers["X-Darkroom-Max-Cost"] = max_cost
    body = {
        "input_file_id": file["id"],
        "endpoint": source.url,
        "completion_window": "24h",
        "metadata": metadata,
    }
    return dict(client.post(BATCHES, body, headers))


@contextmanager
def _resumable(batch_id: str, *, again: bool) -> Generator[None]:
    """Errors and Ctrl-C say how to go on with the batch, which continues."""
    command = f"run the command again{' without --again' if again else ''}"
    try:
        yield
    except KeyboardInterrupt:
        echo(
            f"\nThe batch continues. To get its results, {command}. To stop it: darkroom batch "
            f"cancel {batch_id}",
            err=True,
        )
        raise
    except DarkroomError as error:
        raise ApiFailure(
            f"{error.message}\nThe batch is {batch_id}. To get its results, {command}."
        ) from None


def _wait(client: Client, batch: dict[str, Any], *, as_json: bool) -> dict[str, Any]:
    shown = ""
    with ProgressLine("Waiting for the batch") as waiting:
        while True:
            batch = dict(client.poll(f"{BATCHES}/{batch['id']}"))
            waiting.show(now := summary(batch))
            if now != shown and not waiting.on_terminal:
                shown = now
                _say(now, as_json=as_json)
            if batch["status"] in FINAL:
                return batch
            time.sleep(POLL_S)


def _say(text: str, *, as_json: bool) -> None:
    echo(text, err=as_json)
