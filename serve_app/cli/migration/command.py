"""``darkroom migrate check``: reports which calls to fal in existing code work on Darkroom."""

from __future__ import annotations

import json
import sys

import click

from serve_app.cli.connection import options
from serve_app.cli.connection.command_group import CommandGroup
from serve_app.cli.connection.remote import Remote, origin
from serve_app.cli.connection.text import echo
from serve_app.domain.errors import Misconfigured
from serve_app.settings import Config

EXTRA = frozenset({"jsonschema", "tree_sitter", "tree_sitter_typescript"})
"""Modules of the extra ``migrate``, which ``darkroom serve`` does not need."""


@click.group("migrate", cls=CommandGroup)
def migrate_group() -> None:
    """Check programs that were written for fal before you move them."""


@migrate_group.command("check")
@options.config
@click.argument("named", nargs=-1, required=True, metavar="PATH_OR_ID...")
@click.option(
    "--url",
    metavar="URL",
    default=None,
    help="Check against this running Darkroom. Default: the catalogue.",
)
@click.option(
    "--key",
    metavar="KEY",
    default="",
    envvar="FAL_KEY",
    help="API key for --url. Default: the variable FAL_KEY.",
)
@options.as_json
def check_command(
    config: Config, named: tuple[str, ...], url: str | None, key: str, *, as_json: bool
) -> None:
    """Report which endpoints and fields of your code are served, refused or missing.

    PATH is a Python, JavaScript or TypeScript file, a folder of such files, or a list of inputs in
    JSON or YAML. ID is an endpoint id. The code is read, not run. The exit status is 1 if anything
    is refused or missing.
    """
    try:
        from serve_app.cli.migration import endpoints, report, sources  # noqa: PLC0415
    except ModuleNotFoundError as missing:
        if missing.name not in EXTRA:
            raise
        raise Misconfigured(
            f"darkroom migrate needs the package {missing.name}, which is not installed. "
            "Install it with: pip install 'darkroom-serve[migrate]'."
        ) from None
    calls = list(sources.calls_of(named))
    offer = (
        endpoints.from_catalogue(config)
        if url is None
        else endpoints.from_server(Remote(origin(url), key))
    )
    findings = [item for call in calls for item in report.findings(call, offer)]
    if as_json:
        echo(json.dumps(report.json_report(findings, offer.where), indent=2))
    else:
        for line in report.text_report(findings, offer.where):
            echo(line)
    sys.exit(1 if any(item.fate in report.FAILING for item in findings) else 0)
