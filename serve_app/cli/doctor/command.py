"""``darkroom doctor``: its arguments and exit status."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from serve_app.cli.connection import options
from serve_app.cli.connection.server import here
from serve_app.settings import read_config


@click.command("doctor")
@options.server_options
@options.config_file("config_path")
@click.argument("part", type=click.Choice(["storage"]), required=False)
@options.as_json
def doctor_command(
    part: str | None, config_path: Path | None, *, as_json: bool, **chosen: Any
) -> None:
    """Check this machine and installation, and report each problem.

    A running Darkroom, here or at --url, checks the machine and the settings of its ingress. With
    --config, or where none runs, this machine is checked by the settings of the file or the
    environment. With `storage`, every operation of Darkroom on its storage is tested. The exit
    status is the number of problems.
    """
    # The checks import the database driver and every storage, which other commands do not need.
    from serve_app.cli.doctor import checks, doctor  # noqa: PLC0415

    arguments = options.file_arguments(config_path)
    if "data_dir" in arguments and not any(chosen.values()):
        chosen["server_data_dir"] = arguments["data_dir"]
    server = options.named_server(chosen)
    if part or config_path is not None:
        server = here(server)
        config = read_config(arguments | {"data_dir": server.data_dir})
        findings = (
            checks.storage_findings(config)
            if part
            else doctor.findings(server, config, config_path)
        )
    else:
        findings = doctor.findings(server)
    sys.exit(doctor.report(findings, as_json=as_json))
