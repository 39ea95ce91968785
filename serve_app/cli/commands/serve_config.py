"""``darkroom serve-config``: configuration for ``serve deploy`` with an application per pool."""

from __future__ import annotations

from pathlib import Path

import click
import yaml

from serve_app.cli.connection.text import echo
from serve_app.settings import config_file, refuse_unknown
from serve_app.settings.parts import VERSION
from serve_app.telemetry.version import code_version

HEADER = """\
# Written by `darkroom serve-config`. Change the file that it was written from, and write it again.
# {path} is watched: its limits, catalogue and bounds of pools are in force within seconds.
"""


def serve_config(source: Path, installed_as: Path | None) -> str:
    """Serve configuration from ``source``, as YAML, with Darkroom's version.

    ``installed_as``: path of ``source`` on the nodes of the ingress, if it is another. Raises
    ``Misconfigured``.
    """
    from serve_app.app import applications  # noqa: PLC0415 imports Ray

    file = config_file.read(source)
    path = (installed_as or source).absolute()
    version = {VERSION: code_version()}
    apps = applications(file.arguments, path).values()
    entries = [app.entry | {"args": app.args | version} for app in apps]
    content = {**file.rest, "applications": entries}
    return HEADER.format(path=path) + yaml.safe_dump(content, sort_keys=False)


@click.command("serve-config")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option(
    "--installed-as",
    type=click.Path(path_type=Path),
    default=None,
    help="Path of the configuration on the nodes of the ingress. Default: its path here.",
)
def serve_config_command(file: Path, installed_as: Path | None) -> None:
    """Print the configuration for `serve deploy`, with an application for each pool. Print it again
    after an upgrade: it has the version, so that Serve replaces what runs.

    Example: darkroom serve-config darkroom.yaml > serve.yaml && serve deploy serve.yaml
    """
    refuse_unknown()
    echo(serve_config(file, installed_as), nl=False)
