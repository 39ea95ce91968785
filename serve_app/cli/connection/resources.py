"""The plain commands of a resource, from its declaration: ``list``, ``delete`` and ``restart``.

All have the same words: ``--tenant`` and ``--installation`` where the resource has owners, and
``--json``. A list is a table with the columns of the declaration; ``--limit`` shortens it.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import quote

import click

from serve_app.cli.connection import options
from serve_app.cli.connection.client import Client
from serve_app.cli.connection.server import Server
from serve_app.domain.errors import Misconfigured
from serve_app.resources.declaration import Owner, Resource

Command = Callable[..., Any]

_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d.*")


def owners(resource: Resource[Any]) -> Callable[[Command], Command]:
    """Add the options that say whose resources are meant; the command gets ``owner``, the
    parameters of the query."""

    def add(command: Command) -> Command:
        @functools.wraps(command)
        def call(*args: Any, **given: Any) -> Any:
            tenant = given.pop("tenant", None)
            installation = given.pop("installation", False)
            if installation and tenant is not None:
                raise Misconfigured("Use either --tenant or --installation.")
            owner = {"tenant": tenant, "installation": "true" if installation else None}
            return command(*args, owner=owner, **given)

        if resource.owner is Owner.TENANT_OR_INSTALLATION:
            what = f"{resource.plural.capitalize()} for all tenants. Needs the scope operator."
            call = click.option("--installation", is_flag=True, help=what)(call)
        if resource.owner in (Owner.TENANT, Owner.TENANT_OR_INSTALLATION):
            what = f"Whose {resource.plural}. Default: the key's tenant."
            call = click.option("--tenant", help=what)(call)
        return call

    return add


def add_list(group: click.Group, resource: Resource[Any], below: str = "") -> None:
    """``below``: a sentence below the table, with fields of the answer in braces."""

    @group.command("list", help=f"List {resource.plural}.")
    @options.server
    @owners(resource)
    @click.option("--limit", type=click.IntRange(1, 1000), help="At most so many.")
    @options.as_json
    def list_command(
        server: Server, *, owner: Mapping[str, Any], limit: int | None, as_json: bool
    ) -> None:
        with Client(server) as client:
            answer = client.get(resource.path, limit=limit, **owner)
        if as_json:
            click.echo(json.dumps(answer))
            return
        rows = answer[resource.items]
        for line in table(resource.columns, rows):
            click.echo(line)
        if not rows:
            click.echo(resource.empty or f"There are no {resource.plural}.")
        elif answer["has_more"]:
            click.echo(f"There are more. Raise --limit, which is {len(rows)}.", err=True)
        if below:
            click.echo(below.format_map(answer))


def add_delete(group: click.Group, resource: Resource[Any], *, force: str = "") -> None:
    """``force``: help of ``--force``, if there is such an option."""

    @group.command("delete", help=f"Delete {resource.one}. {resource.deletion}".strip())
    @options.server
    @click.argument(resource.key)
    @owners(resource)
    @options.as_json
    def delete_command(
        server: Server, *, owner: Mapping[str, Any], as_json: bool, **given: Any
    ) -> None:
        key = given[resource.key]
        forced = {"force": "true"} if given.get("force") else {}
        with Client(server) as client:
            client.delete(path_of(resource, key), **owner, **forced)
        click.echo(
            json.dumps({resource.key: key, "deleted": True})
            if as_json
            else f"The {resource.name} {key} is deleted."
        )

    if force:
        delete_command.params.append(click.Option(["--force"], is_flag=True, help=force))


def plain_group(resource: Resource[Any]) -> click.Group:
    """All commands of a resource that needs no others."""
    group = click.Group(resource.plural, help=resource.commands)
    add_list(group, resource)
    if resource.deletion:
        add_delete(group, resource)
    if resource.restart:
        _add_restart(group, resource)
    return group


def _add_restart(group: click.Group, resource: Resource[Any]) -> None:
    @group.command("restart", help=f"Restart {resource.one}. {resource.restart}")
    @options.server
    @click.argument(resource.key)
    @options.as_json
    def restart_command(server: Server, *, as_json: bool, **given: Any) -> None:
        with Client(server) as client:
            row = client.post(f"{path_of(resource, given[resource.key])}/restart", {})
        for line in [json.dumps(row)] if as_json else table(resource.columns, [row]):
            click.echo(line)


def path_of(resource: Resource[Any], key: str) -> str:
    return f"{resource.path}/{quote(key, safe='/' if resource.key_has_slashes else '')}"


def table(columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> Sequence[str]:
    """Lines of a table with a heading; none without rows."""
    if not rows:
        return []
    cells = [[each.replace("_", " ").upper() for each in columns]]
    cells += [[_text(row[name]) for name in columns] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in cells
    ]


def _text(value: Any) -> str:
    match value:
        case None | "" | []:
            return "–"
        case bool():
            return "yes" if value else "no"
        case list():
            return ", ".join(map(str, value))
        case str() if _TIME.fullmatch(value):
            return value[:19].replace("T", " ")
        case _:
            return str(value)
