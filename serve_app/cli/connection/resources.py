"""The plain commands of a resource, from its declaration: ``list``, ``show``, ``delete`` and
``restart``.

All have the same words: ``--tenant`` and ``--installation`` where the resource has owners, and
``--json``. A list is a table with the columns of the declaration; ``--limit`` shortens it.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, cast
from urllib.parse import quote

import click

from serve_app.cli.connection import completion, options
from serve_app.cli.connection.client import Client
from serve_app.cli.connection.command_group import CommandGroup
from serve_app.cli.connection.server import Server
from serve_app.cli.connection.text import echo, one_line, size_text
from serve_app.domain.errors import Misconfigured
from serve_app.resources.declaration import Column, Owner, Resource

Command = Callable[..., Any]

_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d.*")
_INDENTED = "    "


def owners(resource: Resource[Any]) -> Callable[[Command], Command]:
    """Add the options that say whose resources are meant; the command gets ``owner``, the
    parameters of the query."""
    has_tenant = resource.owner in (Owner.TENANT, Owner.TENANT_OR_INSTALLATION)

    def add(command: Command) -> Command:
        @functools.wraps(command)
        def call(*args: Any, **params: Any) -> Any:
            # Of others, ``tenant`` may be the key.
            tenant = params.pop("tenant") if has_tenant else None
            installation = params.pop("installation", False)
            if installation and tenant is not None:
                raise Misconfigured("Use either --tenant or --installation.")
            owner = {"tenant": tenant, "installation": "true" if installation else None}
            return command(*args, owner=owner, **params)

        if resource.owner is Owner.TENANT_OR_INSTALLATION:
            what = f"{resource.plural.capitalize()} for all tenants. Needs the scope operator."
            call = click.option("--installation", is_flag=True, help=what)(call)
        if has_tenant:
            call = options.tenant(call)
        return call

    return add


def add_list(group: click.Group, resource: Resource[Any]) -> None:
    @group.command("list", help=f"List {resource.plural}.")
    @options.server
    @owners(resource)
    @options.limit(1000)
    @options.as_json
    def list_command(
        server: Server, *, owner: Mapping[str, Any], limit: int | None, as_json: bool
    ) -> None:
        with Client(server) as client:
            answer = client.get(resource.path, limit=limit, **owner)
        if as_json:
            echo(json.dumps(answer))
            return
        rows = answer[resource.items]
        for line in table(resource.table_columns, rows) if rows else [resource.empty]:
            echo(line)
        if answer["has_more"]:
            echo(f"These are {len(rows)}, and there are more. Use a higher --limit.", err=True)
        if resource.below:
            sizes = {name: size_text(size) for name, size in answer.items() if "_bytes" in name}
            echo(resource.below.format_map(answer | sizes))


def add_show(group: click.Group, resource: Resource[Any]) -> None:
    @group.command("show", help=f"Show {resource.name_with_article}.")
    @options.server
    @key_of(resource)
    @owners(resource)
    @options.as_json
    def show_command(
        server: Server, *, owner: Mapping[str, Any], as_json: bool, **params: Any
    ) -> None:
        with Client(server) as client:
            row = client.get(path_of(resource, params[resource.key]), **owner)
        echo_one(resource, row, as_json=as_json)


def add_delete(group: click.Group, resource: Resource[Any]) -> None:
    verb = resource.delete_verb

    @group.command(
        verb, help=f"{verb.capitalize()} {resource.name_with_article}. {resource.deletion}"
    )
    @options.server
    @key_of(resource)
    @owners(resource)
    @options.as_json
    def delete_command(
        server: Server, *, owner: Mapping[str, Any], as_json: bool, **params: Any
    ) -> None:
        key = params[resource.key]
        forced = {"force": "true"} if params.get("force") else {}
        with Client(server) as client:
            client.delete(path_of(resource, key), **owner, **forced)
        echo(
            json.dumps({resource.key: key, f"{verb}d": True})
            if as_json
            else f"The {resource.name} {key} is {verb}d."
        )

    if resource.force:
        options.force(delete_command)


def plain_group(resource: Resource[Any], name: str = "", about: str = "") -> click.Group:
    """Group with all commands that need no code of their own. ``about``: its help, if it has
    others too."""
    group = CommandGroup(name or resource.plural)
    add_list(group, resource)
    if resource.has_show:
        add_show(group, resource)
    if resource.deletion:
        add_delete(group, resource)
    if resource.restart:
        _add_restart(group, resource)
    *verbs, last = (verb.capitalize() if not n else verb for n, verb in enumerate(group.commands))
    both = f"{', '.join(verbs)} and {last}"
    group.help = about or f"{both} {resource.plural}: {resource.about}."
    return group


def _add_restart(group: click.Group, resource: Resource[Any]) -> None:
    @group.command("restart", help=f"Restart {resource.name_with_article}. {resource.restart}")
    @options.server
    @key_of(resource)
    @options.as_json
    def restart_command(server: Server, *, as_json: bool, **params: Any) -> None:
        with Client(server) as client:
            row = client.post(f"{path_of(resource, params[resource.key])}/restart", {})
        echo_one(resource, row, as_json=as_json)


def key_of(resource: Resource[Any]) -> Callable[[Command], Command]:
    """Argument that names one."""
    complete = completion.endpoints if resource.key == "endpoint_id" else None
    return click.argument(resource.key, shell_complete=complete)


def path_of(resource: Resource[Any], key: str) -> str:
    return f"{resource.path}/{quote(key, safe='/' if resource.key_has_slashes else '')}"


def echo_one(resource: Resource[Any], row: Mapping[str, Any], *, as_json: bool) -> None:
    """Print one, with all of its fields."""
    for line in [json.dumps(row)] if as_json else details(resource.detail_columns, row):
        echo(line)


def details(columns: Sequence[Column], row: Mapping[str, Any]) -> Iterator[str]:
    """Lines with a field each. Several things of one field are a table below its name."""
    width = max(len(col.heading) for col in columns)
    for column in columns:
        value = row.get(column.field)  # a server before this version does not say all of them
        rows = _rows(value)
        if rows:
            yield column.heading
            names = list(dict.fromkeys(name for entry in rows for name in entry))
            inner = [Column(name, name.replace("_", " ").capitalize()) for name in names]
            yield from (f"{_INDENTED}{line}" for line in table(inner, rows))
        else:
            yield f"{column.heading:<{width}}  {_text(column, value)}"


def table(columns: Sequence[Column], rows: Sequence[Mapping[str, Any]]) -> Sequence[str]:
    """Lines of a table with a heading."""
    cells = [[field.heading.upper() for field in columns]]
    cells += [[_text(field, row.get(field.field)) for field in columns] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in cells
    ]


def _rows(value: Any) -> Sequence[Mapping[str, Any]]:
    """Objects in a field: a list of them, or a mapping from names to them."""
    if isinstance(value, list):
        objects = cast("list[Any]", value)
        return objects if objects and all(isinstance(item, dict) for item in objects) else ()
    if isinstance(value, dict):
        named = cast("dict[str, Any]", value)
        if named and all(isinstance(member, dict) for member in named.values()):
            return [{"name": name, **fields} for name, fields in named.items()]
    return ()


def _text(column: Column, value: Any) -> str:  # noqa: PLR0911 one for each kind
    match value:
        case None | "" | []:
            return column.absent
        case bool():
            return "yes" if value else "no"
        case int() | float() if column.format == "bytes":
            return size_text(value)
        case list():
            return ", ".join(_text(column, item) for item in cast("list[Any]", value))
        case dict():
            named = cast("dict[str, Any]", value)
            return ", ".join(f"{name} {_text(column, inner)}" for name, inner in named.items())
        case str() if _TIME.fullmatch(value):
            return value[:19].replace("T", " ")
        case _:
            return one_line(str(value))
