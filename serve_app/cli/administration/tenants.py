"""``darkroom tenants export``, ``delete`` and ``deletion``: all that is stored about a tenant."""

from __future__ import annotations

import json
import time
import zipfile
from pathlib import Path
from typing import Any

import click

from serve_app.cli.commands.tenants import tenants_group
from serve_app.cli.connection import options
from serve_app.cli.connection.client import Client
from serve_app.cli.connection.resources import path_of
from serve_app.cli.connection.server import Server
from serve_app.cli.connection.whole_file import whole_file
from serve_app.domain.errors import Misconfigured
from serve_app.resources.tenants import TENANTS

__all__ = ["tenants_group"]

POLL_S = 1.0


@tenants_group.command("delete")
@options.server
@click.argument("tenant")
@click.option("-y", "--yes", is_flag=True, help="Do not ask for confirmation.")
@click.option("--wait", is_flag=True, help="Wait until nothing is left.")
@options.as_json
def delete_tenant(server: Server, tenant: str, *, yes: bool, wait: bool, as_json: bool) -> None:
    """Delete TENANT: its requests, files, keys and all else.

    The audit log stays, and sums of its usage as DARKROOM_DELETED_TENANT_USAGE says.
    """
    if not yes:
        click.confirm(
            f"Delete the tenant {tenant} with all of its requests, files and keys, for ever?",
            abort=True,
            err=True,
        )
    with Client(server) as client:
        found = client.delete(path_of(TENANTS, tenant))
        while wait and found["ended_at"] is None:
            time.sleep(POLL_S)
            found = client.poll(f"{path_of(TENANTS, tenant)}/deletion")
    click.echo(json.dumps(found) if as_json else deletion_text(found))


@tenants_group.command("deletion")
@options.server
@click.argument("tenant")
@options.as_json
def show_deletion(server: Server, tenant: str, *, as_json: bool) -> None:
    """Show the progress of the deletion of TENANT."""
    with Client(server) as client:
        found = client.get(f"{path_of(TENANTS, tenant)}/deletion")
    click.echo(json.dumps(found) if as_json else deletion_text(found))


@tenants_group.command("export")
@options.server
@click.argument("tenant")
@click.option(
    "-o", "--out", type=click.Path(path_type=Path, dir_okay=False), required=True,
    help="Zip file to be written.",
)  # fmt: skip
@click.option("--files/--no-files", default=True, help="With the contents of files. Default: yes.")
def export_tenant(server: Server, tenant: str, out: Path, *, files: bool) -> None:
    """Export everything that is stored about TENANT as a zip file."""
    path = f"{path_of(TENANTS, tenant)}/export"
    with whole_file(out, new=True) as file:
        with Client(server) as client, client.chunks(path, files=str(files).lower()) as chunks:
            file.writelines(chunks)
        file.flush()
        number = _number_of_files(Path(file.name), tenant)
    click.echo(f"{number} files are in {out}.")


def _number_of_files(export: Path, tenant: str) -> int:
    """Number of files in a whole export. ``Misconfigured``: it has no end."""
    try:
        with zipfile.ZipFile(export) as archive:
            archive.getinfo("export.json")
            return len(archive.namelist())
    except (zipfile.BadZipFile, KeyError):
        raise Misconfigured(
            f"The export of {tenant} ended early. Look into the log of the server, and repeat the "
            "command."
        ) from None


def deletion_text(found: dict[str, Any]) -> str:
    """Progress of a deletion, as a sentence."""
    if found["ended_at"] is not None:
        kept = found["usage_kept_as"]
        usage = "" if kept is None else f" Sums of its usage are kept as {kept}."
        return f"{found['tenant']} was deleted at {found['ended_at'][:19]}.{usage}"
    left = ", ".join(f"{rows} {name.replace('_', ' ')}" for name, rows in found["left"].items())
    return f"{found['tenant']} is disabled and is being deleted. Left: {left}."
