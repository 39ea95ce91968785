"""``darkroom verify``: who made a file, and whether it was changed since."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from serve_app.cli.connection import options
from serve_app.cli.connection.progress_line import ProgressLine
from serve_app.cli.connection.text import echo, one_line
from serve_app.cli.verification.replay import Replay, drawn_by, replay
from serve_app.domain.errors import InvalidInput, Misconfigured
from serve_app.provenance.certificates import CERTIFICATES_FILE
from serve_app.provenance.checker import has_mark
from serve_app.provenance.reader import SignatureState, Verified, verify
from serve_app.settings import read_config

EXIT = {
    SignatureState.TRUSTED: 0,
    SignatureState.INVALID: 2,
    SignatureState.UNKNOWN_SIGNER: 3,
    SignatureState.UNSIGNED: 4,
}
DIFFERS = 5

WORDS = {
    SignatureState.TRUSTED: "unchanged since a trusted signer signed it",
    SignatureState.UNKNOWN_SIGNER: "unchanged since signed, but the signer is not known here",
    SignatureState.INVALID: "CHANGED after it was signed, or signed wrongly",
    SignatureState.UNSIGNED: "not signed",
}


@click.command("verify")
@click.argument("file", type=click.Path(path_type=Path, readable=False))
@click.option(
    "--trust",
    metavar="FILE",
    type=click.Path(path_type=Path, readable=False),
    help="PEM file with certificates of signers that are trusted. Default: this installation's.",
)
@click.option(
    "--replay",
    "draws_again",
    is_flag=True,
    help="Draw the image again on the server, and compare the pixels.",
)
@options.as_json
@options.server_options
def verify_command(
    file: Path, trust: Path | None, *, draws_again: bool, as_json: bool, **chosen: Any
) -> None:
    """Check the signature (C2PA) of FILE, and show who made it.

    Exit status: 0 if it is unchanged and its signer trusted, 1 if it cannot be checked, 2 if it was
    changed, 3 if the signer is not known, 4 if it is not signed, 5 if an image that was drawn again
    differs.
    """
    _require_readable(file)
    verification = verify(file, trusted_certificates(trust, chosen["server_data_dir"]))
    drawn = None
    if draws_again:
        if verification.verdict in (SignatureState.UNSIGNED, SignatureState.INVALID):
            raise InvalidInput(
                f"{file} is {WORDS[verification.verdict]}: there is nothing to compare."
            )
        with ProgressLine("Drawing the image again", quiet=as_json):
            drawn = replay(drawn_by(options.named_server(chosen)), file, verification.generation)
    marked = has_mark(file)
    if as_json:
        again = None if drawn is None else asdict(drawn)
        echo(json.dumps({**asdict(verification), "marked": marked, "replay": again}))
    else:
        for line in lines(verification, drawn, marked=marked):
            echo(line)
    status = EXIT[verification.verdict]
    sys.exit(DIFFERS if status in (0, 3) and drawn is not None and not drawn.equal else status)


def _require_readable(file: Path) -> None:
    """Raise ``InvalidInput`` if the file cannot be read. Click's own check ends with the status of
    a file that was changed, and so does a signature that cannot be read."""
    try:
        with file.open("rb"):
            pass
    except OSError as error:
        reason = error.strerror or error
        raise InvalidInput(f"{file} cannot be read: {reason}. Nothing was checked.") from None


def trusted_certificates(named: Path | None, data_dir: Path | None) -> str:
    """Certificates in the file that is ``named``, or those of this installation; or none.

    ``InvalidInput`` or ``Misconfigured``: the file cannot be read. That of this installation may be
    missing.
    """
    if named is not None:
        _require_readable(named)
    path = named or (data_dir or read_config({}).server.data_dir) / CERTIFICATES_FILE
    try:
        return path.read_text()
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeError) as error:
        raise Misconfigured(f"{path} cannot be read: {error}") from None


def lines(verified: Verified, drawn: Replay | None, *, marked: bool) -> Iterator[str]:
    """The result as text. What the file says is cleaned, because anyone may have written it."""
    yield f"signature  {WORDS[verified.verdict]}"
    yield f"mark       {'says that it is AI-generated' if marked else 'none'}"
    if verified.signer or verified.issuer:
        yield f"signer     {one_line(verified.signer)} ({one_line(verified.issuer)})"
    for problem in verified.problems:
        yield f"problem    {one_line(problem)}"
    yield from _generation(verified.generation)
    if drawn is not None:
        yield from (f"differs    {one_line(fact)}" for fact in drawn.differing_facts)
        yield f"replay     {drawn.words}"


def _generation(facts: Mapping[str, Any]) -> Iterator[str]:
    names = {"request_id": "request", "description": "", "versions": "", "loras": ""}
    for name, value in facts.items():
        if shown := names.get(name, name):
            yield f"{one_line(shown):<10} {one_line(str(value))}"
    for lora in facts.get("loras", ()):
        shown = one_line(f"{lora.get('file')} at {lora.get('scale')}")
        yield f"{'lora':<10} {shown}"
    versions = facts.get("versions", {})
    if versions:
        shown = ", ".join(f"{name} {version}" for name, version in versions.items())
        yield f"{'versions':<10} {one_line(shown)}"
