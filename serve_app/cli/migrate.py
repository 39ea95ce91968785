"""``darkroom migrate check``: what of somebody's code for fal's service works here."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence

import click

from serve_app.cli import options
from serve_app.cli.migration.offer import Named, of_catalogue, of_running
from serve_app.cli.migration.sources import calls_of
from serve_app.cli.migration.verdict import BAD, Fate, Finding, findings
from serve_app.settings import Config


@click.group("migrate")
def migrate_group() -> None:
    """Move programs over that were written for fal's service."""


@migrate_group.command("check")
@options.config
@click.argument("named", nargs=-1, required=True, metavar="PATH_OR_ID...")
@click.option("--url", default=None, help="Ask this running Darkroom. Default: the catalogue.")
@click.option(
    "--key", default="", envvar="FAL_KEY", help="For --url. Default: the variable FAL_KEY."
)
@options.as_json
def check_command(
    config: Config, named: tuple[str, ...], url: str | None, key: str, *, as_json: bool
) -> None:
    """Read code and say which endpoints and fields that it uses are served, ignored, refused or
    missing.

    PATH is a file of Python, JavaScript or TypeScript, a folder of them, or a list of inputs in
    JSON or YAML; an ID is an endpoint's. Nothing is run. The exit status is 1 when something is
    refused or missing.
    """
    calls = list(calls_of(named))
    offer = of_catalogue(config) if url is None else of_running(Named(url, key))
    found = [each for call in calls for each in findings(call, offer)]
    if as_json:
        click.echo(json.dumps(document(found, offer.where), indent=2))
    else:
        for line in lines(found, offer.where):
            click.echo(line)
    sys.exit(1 if any(each.fate in BAD for each in found) else 0)


def document(found: Sequence[Finding], where: str) -> dict[str, object]:
    """The report for programs."""
    return {
        "against": where,
        "counts": counted(found),
        "findings": [
            {
                "file": each.place.file,
                "line": each.place.line or None,
                "endpoint": each.endpoint,
                "field": each.field,
                "verdict": each.fate.value,
                "reason": each.why or None,
            }
            for each in found
        ],
    }


def lines(found: Sequence[Finding], where: str) -> Iterator[str]:
    """The report for people: fields that are served go without a line of their own."""
    for each in found:
        if each.field is not None and each.fate is Fate.SERVED:
            continue
        about = f"{each.endpoint or 'a call'}{f', {each.field}' if each.field else ''}"
        why = f": {each.why}" if each.why else ""
        yield f"{each.place}: {each.fate.value:<7}  {about}{why}"
    if not found:
        yield "No call of fal's clients was found."
    told = ", ".join(f"{count} {fate}" for fate, count in counted(found).items() if count)
    if told:
        yield f"{told}, against {where}."


def counted(found: Sequence[Finding]) -> dict[str, int]:
    counts = Counter(each.fate for each in found)
    return {fate.value: counts[fate] for fate in Fate}
