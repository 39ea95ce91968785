"""``darkroom audit``: the audit log, its export, and the check of its chain of hashes."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click

from serve_app.cli.connection import options
from serve_app.cli.connection.client import Client
from serve_app.cli.connection.progress_line import ProgressLine
from serve_app.cli.connection.server import Server
from serve_app.cli.connection.text import echo, one_line
from serve_app.cli.connection.whole_file import whole_file
from serve_app.cli.group import InheritingGroup
from serve_app.domain.audit.chain import BrokenChain, ChainCheck, verify
from serve_app.domain.errors import Misconfigured

STDOUT = Path("-")


@click.group("audit", cls=InheritingGroup, invoke_without_command=True)
@options.server_options
@options.limit(500, 20)
@click.option("--tenant", metavar="TENANT", help="Show only what is about this tenant.")
@options.as_json
@click.pass_context
def audit_group(
    ctx: click.Context, limit: int, tenant: str | None, *, as_json: bool, **params: Any
) -> None:
    """List the audit log, newest first."""
    if ctx.invoked_subcommand is not None:
        return
    with Client(options.named_server(params)) as client:
        answer = client.get("/v1/audit", limit=limit, tenant=tenant)
    if as_json:
        echo(json.dumps(answer))
        return
    for act in answer["acts"]:
        detail = f"  {json.dumps(act['detail'])}" if act["detail"] else ""
        who = f"{act['actor'] or '-'}  {act['address'] or '-'}"
        echo(f"{act['at'][:19]}  {who}  {act['action']}  {one_line(act['subject'])}{detail}")


@audit_group.command("export")
@options.server
@click.option(
    "--after",
    type=click.IntRange(0),
    metavar="NUMBER",
    default=0,
    help="Only entries after the one with this number.",
)
@click.option(
    "-o", "--output", "out", type=click.Path(path_type=Path, dir_okay=False), default=STDOUT,
    help="File to write. Default: standard output.",
)  # fmt: skip
def export(server: Server, after: int, out: Path) -> None:
    """Export the audit log as JSON lines with their hashes, oldest first."""
    with Client(server) as client, client.lines("/v1/audit/export", after=after) as lines:
        if out == STDOUT:
            # Files and programs get the very bytes, which the hashes are of.
            show = echo if sys.stdout.isatty() else print
            for line in lines:
                show(line)
            return
        written = 0
        # The chain of the beginning of a log is unbroken too: a part would pass for the whole.
        with whole_file(out, new=True) as file:
            for line in lines:
                file.write(f"{line}\n".encode())
                written += 1
    echo(f"{written} entries are in {out}.")


@audit_group.command("verify")
@click.argument(
    "file", type=click.Path(path_type=Path, exists=True, dir_okay=False), required=False
)
@options.server_options
@click.option(
    "--anchor", "anchors", multiple=True, metavar="SEQUENCE:HASH",
    help="Hash that you have kept. May be repeated.",
)  # fmt: skip
@click.option(
    "--anchors", "anchors_file", type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="File of DARKROOM_AUDIT_ANCHOR_FILE, or a copy of it.",
)  # fmt: skip
@options.as_json
def verify_command(
    file: Path | None,
    anchors: tuple[str, ...],
    anchors_file: Path | None,
    *,
    as_json: bool,
    **params: Any,
) -> None:
    """Check the chain of hashes in FILE, without a server, or of the live log.

    FILE is an export. An error names the first line that is wrong.
    """
    kept = read_anchors([*anchors, *_lines_of(anchors_file)])
    if file is not None:
        with file.open(encoding="utf-8", errors="surrogateescape", newline="\n") as opened:
            chain = _check_chain(opened, kept, str(file))
    else:
        server = options.named_server(params)
        with Client(server) as client, client.lines("/v1/audit/export") as lines:
            with ProgressLine("Checking the audit log", quiet=as_json):
                chain = _check_chain(lines, kept, "The audit log")
    if as_json:
        echo(json.dumps({"entries": chain.entries, "first": chain.first, "last": chain.last,
                               "hash": chain.last_hash, "anchors": len(kept)}))  # fmt: skip
        return
    places = f", {chain.first} to {chain.last}," if chain.entries else ""
    echo(f"{chain.entries} entries{places} are an unbroken chain.")
    if chain.entries:
        echo(f"Last hash: {chain.last}:{chain.last_hash}")


def read_anchors(lines: Iterable[str]) -> dict[int, str]:
    """Anchors, one a line. ``Misconfigured``: one is not ``SEQUENCE:HASH``."""
    anchors: dict[int, str] = {}
    for line in filter(None, map(str.strip, lines)):
        text = line.split()[-1]
        sequence, _, hash_ = text.partition(":")
        if not (sequence.isascii() and sequence.isdecimal() and len(hash_) == 64):
            raise Misconfigured(
                f"The anchor {text[:100]!r} is not SEQUENCE:HASH, as `darkroom doctor` prints it."
            )
        if anchors.setdefault(int(sequence), hash_) != hash_:
            raise Misconfigured(
                f"Two anchors name different hashes for entry {sequence}: the log was written anew "
                "between them."
            )
    return anchors


def _lines_of(file: Path | None) -> Iterable[str]:
    return [] if file is None else file.read_text(encoding="utf-8").splitlines()


def _check_chain(lines: Iterable[str], anchors: dict[int, str], what: str) -> ChainCheck:
    try:
        return verify(lines, anchors)
    except BrokenChain as error:
        raise Misconfigured(
            f"{what} is not an unbroken chain. Line {error.line}: {error.problem}. Do not delete "
            "anything: compare it with earlier exports and backups."
        ) from None
