"""``darkroom doctor``: its arguments and exit status."""

from __future__ import annotations

import sys

import click

from serve_app.cli.connection import options
from serve_app.cli.connection.server import Server, here


@click.command("doctor")
@options.server
@click.argument("part", type=click.Choice(["storage"]), required=False)
@options.as_json
def doctor_command(server: Server, part: str | None, *, as_json: bool) -> None:
    """Check this machine and installation, and report each problem.

    With --url or a saved context, check that Darkroom and the machine of its ingress. With
    `storage`, test every operation that Darkroom performs on the artifact storage. The exit status
    is the number of problems.
    """
    # The checks import the database driver and every storage, which other commands do not need.
    from serve_app.cli.doctor import checks, doctor  # noqa: PLC0415

    found = checks.storage_findings(here(server)) if part else doctor.findings(server)
    sys.exit(doctor.report(found, as_json=as_json))
