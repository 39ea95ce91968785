"""``darkroom serve-config``: configuration for ``serve deploy`` with an application per pool."""

from __future__ import annotations

import re
from pathlib import Path
from textwrap import indent
from typing import Any

import click
import yaml

from serve_app.cli.connection.whole_file import whole_file
from serve_app.domain.errors import Misconfigured
from serve_app.settings import config_file, refuse_unknown
from serve_app.settings.parts import VERSION
from serve_app.telemetry.version import code_version

HEADER = """\
# Written by `darkroom serve-config`. Change the file that it was written from, and write it again.
# {path} is watched: its limits, catalogue and bounds of pools are in force within seconds.
"""

MOUNTED_AS = Path("/etc/darkroom/darkroom.yaml")
"""Path of the configuration in the pods of the ingress."""

_BLOCK = re.compile(r"^( *)serveConfigV2: \|.*\n(?:(?:\1 +.*)?\n)*", re.M)


def serve_config(source: Path, installed_as: Path | None) -> str:
    """Serve configuration from ``source``, as YAML, with Darkroom's version.

    ``installed_as``: path of ``source`` on the nodes of the ingress, if it is another. Raises
    ``Misconfigured``.
    """
    version = {VERSION: code_version()}
    return _serve_config(config_file.read(source), (installed_as or source).absolute(), version)


def update_manifest(path: Path, installed_as: Path | None) -> None:
    """Write ``serveConfigV2`` of the RayService in a Kubernetes manifest, from the ConfigMap in the
    same file that has ``darkroom.yaml``. Everything else in the file stays, with its comments.

    ``installed_as``: where the pods have that ConfigMap mounted. Raises ``Misconfigured``.
    """
    try:
        text = path.read_text(encoding="utf-8")
        documents = [each for each in yaml.safe_load_all(text) if isinstance(each, dict)]
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise Misconfigured(f"{path} cannot be read as a manifest: {error}.") from None
    sources = [found for each in documents if (found := _source_in(each)) is not None]
    if len(sources) != 1 or len(_BLOCK.findall(text)) != 1:
        raise Misconfigured(
            f"{path} should have one ConfigMap with `{MOUNTED_AS.name}` and one RayService with a "
            "block `serveConfigV2: |`. See kubernetes/one-gpu-node.yaml."
        )
    # Without the version: another image replaces the whole cluster.
    made = _serve_config(config_file.parse(sources[0], path), installed_as or MOUNTED_AS, {})

    def block(found: re.Match[str]) -> str:
        return f"{found[1]}serveConfigV2: |\n{indent(made, found[1] + '  ')}"

    with whole_file(path) as file:
        file.write(_BLOCK.sub(block, text).encode())


def _source_in(document: dict[str, Any]) -> str | None:
    if document.get("kind") != "ConfigMap":
        return None
    source = (document.get("data") or {}).get(MOUNTED_AS.name)
    return source if isinstance(source, str) else None


def _serve_config(file: config_file.ConfigFile, path: Path, more: dict[str, str]) -> str:
    """Serve configuration from ``file``. ``more``: arguments of every application."""
    from serve_app.app import applications  # noqa: PLC0415 imports Ray

    made = applications(file.arguments, path).values()
    entries = [each.entry | {"args": each.args | more} for each in made]
    content = {**file.rest, "applications": entries}
    return HEADER.format(path=path) + yaml.safe_dump(content, sort_keys=False)


@click.command("serve-config")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option(
    "--installed-as",
    type=click.Path(path_type=Path),
    default=None,
    help="Path of the configuration on the nodes of the ingress. Default: its path here; with "
    f"--manifest {MOUNTED_AS}.",
)
@click.option(
    "--manifest",
    is_flag=True,
    help="FILE is a Kubernetes manifest: update the serveConfigV2 of its RayService from the "
    "darkroom.yaml in its ConfigMap.",
)
def serve_config_command(file: Path, installed_as: Path | None, *, manifest: bool) -> None:
    """Print the configuration for `serve deploy`, with an application for each pool. Print it again
    after an upgrade: it has the version, so that Serve replaces what runs.

    Example: darkroom serve-config darkroom.yaml > serve.yaml && serve deploy serve.yaml
    """
    refuse_unknown()
    if manifest:
        update_manifest(file, installed_as)
    else:
        click.echo(serve_config(file, installed_as), nl=False)
