"""``darkroom tenants``: the tenants that API keys belong to."""

from __future__ import annotations

import json
import math
import re
import time
import zipfile
from collections.abc import Callable, Mapping
from functools import wraps
from pathlib import Path
from typing import Any

import click

from serve_app.cli.connection import options
from serve_app.cli.connection.client import Client
from serve_app.cli.connection.numbers import FiniteNumber
from serve_app.cli.connection.progress_line import ProgressLine
from serve_app.cli.connection.resources import echo_one, path_of, plain_group
from serve_app.cli.connection.server import Server
from serve_app.cli.connection.text import echo, size_text
from serve_app.cli.connection.whole_file import whole_file
from serve_app.domain.errors import Misconfigured
from serve_app.resources.tenants import TENANTS

POLL_S = 1.0

LimitValue = tuple[str, float | str | None]


class Limit(click.ParamType[LimitValue]):
    """``NAME=VALUE``, or ``NAME=`` for the limit of the settings again."""

    name = "NAME=VALUE"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> LimitValue:
        name, equals, text = str(value).partition("=")
        if not equals:
            self.fail(f"{value} should be NAME=VALUE, such as max_running=4", param, ctx)
        try:
            number = float(text)
        except ValueError:
            return name, text or None  # a word, such as `private`
        if not math.isfinite(number):
            self.fail(f"{value} has no number. {name}= is that of the settings again", param, ctx)
        # Most limits are whole numbers, which JSON would show as 4.0.
        return name, int(number) if number.is_integer() else number


class BudgetOption(click.ParamType[Mapping[str, Any]]):
    """``AMOUNT CURRENCY/PERIOD``, or an empty text, as an empty mapping."""

    name = "budget"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Mapping[str, Any]:
        if not str(value).strip():
            return {}
        match = re.fullmatch(r"\s*([\d.]+)\s*([A-Z]{3})\s*/\s*(day|month)\s*", str(value))
        if match is None:
            self.fail(f"{value} should be such as '200 EUR/month' or '5 USD/day'", param, ctx)
        amount, currency, period = match.groups()
        return {"amount": amount, "currency": currency, "period": period}


limit_option = click.option(
    "--limit",
    "limits",
    type=Limit(),
    multiple=True,
    help="Limit, such as max_running=4. With no value, such as max_running=, the settings decide. "
    "May be repeated.",
)


budget_option = click.option(
    "--budget",
    type=BudgetOption(),
    default=None,
    help="What it may spend, such as '200 EUR/month' or '5 USD/day'. Empty: the settings decide.",
)
warn_at_option = click.option(
    "--warn-at",
    type=FiniteNumber(),
    multiple=True,
    help="With --budget: warn at this share of it, such as 0.8. May be repeated.",
)
only_warn_option = click.option(
    "--only-warn", is_flag=True, help="With --budget: refuse no request above it."
)
webhook_option = click.option(
    "--budget-webhook",
    metavar="URL",
    default=None,
    help="With --budget: URL that gets each warning.",
)


def budget_options(command: Callable[..., None]) -> Callable[..., None]:
    """The options of a budget. The command gets them together, as ``budget``."""

    @wraps(command)
    def with_budget(
        *words: Any,
        budget: Mapping[str, Any] | None,
        warn_at: tuple[float, ...],
        only_warn: bool,
        budget_webhook: str | None,
        **others: Any,
    ) -> None:
        more: dict[str, Any] = {"warn_at": [*warn_at]} if warn_at else {}
        more |= {"stop": False} if only_warn else {}
        more |= {"webhook": budget_webhook} if budget_webhook is not None else {}
        if more and not budget:
            raise click.UsageError("--warn-at, --only-warn and --budget-webhook need --budget.")
        if budget is None:
            command(*words, budget={}, **others)
        else:
            command(*words, budget={"budget": {**budget, **more} if budget else None}, **others)

    return budget_option(warn_at_option(only_warn_option(webhook_option(with_budget))))


storage_option = click.option(
    "--storage",
    metavar="LOCATION",
    default=None,
    help="Storage location of its new files. Empty: the installation's own.",
)


tenants_group = plain_group(
    TENANTS, about="Create, list, show, change, disable, export and delete tenants."
)


@tenants_group.command("create")
@options.server
@click.argument("tenant")
@click.option("--name", metavar="NAME", default="", help="Name that people see.")
@limit_option
@budget_options
@storage_option
@options.as_json
def create_tenant(
    server: Server,
    tenant: str,
    name: str,
    limits: tuple[LimitValue, ...],
    budget: Mapping[str, Any],
    storage: str | None,
    *,
    as_json: bool,
) -> None:
    """Create TENANT, without keys. Its name is TENANT, unless --name is another one."""
    all_limits = {**dict(limits), **budget, **_storage(storage)}
    wish = {"tenant": tenant, "name": name, "limits": all_limits}
    with Client(server) as client:
        echo_one(TENANTS, client.post(TENANTS.path, wish), as_json=as_json)


@tenants_group.command("set")
@options.server
@click.argument("tenant")
@click.option("--name", metavar="NAME", default=None, help="Name that people see.")
@limit_option
@budget_options
@storage_option
@options.as_json
def set_tenant(
    server: Server,
    tenant: str,
    name: str | None,
    limits: tuple[LimitValue, ...],
    budget: Mapping[str, Any],
    storage: str | None,
    *,
    as_json: bool,
) -> None:
    """Change the name, limits, budget or storage of TENANT, within seconds."""
    wish: dict[str, Any] = {} if name is None else {"name": name}
    if changes := {**dict(limits), **budget, **_storage(storage)}:
        wish["limits"] = changes
    with Client(server) as client:
        echo_one(TENANTS, client.patch(path_of(TENANTS, tenant), wish), as_json=as_json)


@tenants_group.command("disable")
@options.server
@click.argument("tenant")
@click.option("--cancel", is_flag=True, help="Cancel its queued requests. Default: they wait.")
@options.as_json
def disable_tenant(server: Server, tenant: str, *, cancel: bool, as_json: bool) -> None:
    """Refuse all keys of TENANT. Its running requests are finished."""
    with Client(server) as client:
        shown = client.put(f"{path_of(TENANTS, tenant)}/disable", {"cancel_queued": cancel})
    queued = "is being cancelled" if cancel else "waits until it is enabled"
    _print(shown, f"{tenant} is disabled. What is queued {queued}.", as_json=as_json)


@tenants_group.command("enable")
@options.server
@click.argument("tenant")
@options.as_json
def enable_tenant(server: Server, tenant: str, *, as_json: bool) -> None:
    """Accept the keys of TENANT again."""
    with Client(server) as client:
        shown = client.put(f"{path_of(TENANTS, tenant)}/enable")
    _print(shown, f"{tenant} is enabled.", as_json=as_json)


@tenants_group.command("delete")
@options.server
@click.argument("tenant")
@options.yes
@click.option("--wait", is_flag=True, help="Wait until all is deleted.")
@options.as_json
def delete_tenant(server: Server, tenant: str, *, yes: bool, wait: bool, as_json: bool) -> None:
    """Delete TENANT with its requests, files, keys and all else.

    The audit log stays. DARKROOM_DELETED_TENANT_USAGE decides whether totals of its usage do.
    """
    if not yes:
        click.confirm(
            f"Delete the tenant {tenant} with all of its requests, files and keys, for ever?",
            abort=True,
            err=True,
        )
    with ProgressLine(f"Deleting {tenant}", quiet=as_json) as waiting, Client(server) as client:
        deletion = client.delete(path_of(TENANTS, tenant))
        while wait and deletion["ended_at"] is None:
            waiting.show(f"Deleting {tenant}: {_rows_left(deletion)} are left")
            time.sleep(POLL_S)
            deletion = client.poll(f"{path_of(TENANTS, tenant)}/deletion")
    echo(json.dumps(deletion) if as_json else deletion_text(deletion))


@tenants_group.command("deletion")
@options.server
@click.argument("tenant")
@options.as_json
def show_deletion(server: Server, tenant: str, *, as_json: bool) -> None:
    """Show the progress of the deletion of TENANT."""
    with Client(server) as client:
        deletion = client.get(f"{path_of(TENANTS, tenant)}/deletion")
    echo(json.dumps(deletion) if as_json else deletion_text(deletion))


@tenants_group.command("export")
@options.server
@click.argument("tenant")
@click.option(
    "-o", "--output", "out", type=click.Path(path_type=Path, dir_okay=False), required=True,
    help="Zip file to write.",
)  # fmt: skip
@click.option(
    "--files/--no-files", default=True, help="With the contents of the files. Default: yes."
)
def export_tenant(server: Server, tenant: str, out: Path, *, files: bool) -> None:
    """Write everything that is stored about TENANT to a zip file."""
    path = f"{path_of(TENANTS, tenant)}/export"
    with ProgressLine(f"Writing {out}") as waiting, whole_file(out, new=True) as file:
        with Client(server) as client, client.chunks(path, files=str(files).lower()) as chunks:
            for chunk in chunks:
                file.write(chunk)
                waiting.show(f"Writing {out}: {size_text(file.tell())}")
        file.flush()
        number = _number_of_files(Path(file.name), tenant)
    echo(f"{number} files are in {out}.")


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


def deletion_text(deletion: dict[str, Any]) -> str:
    """Progress of a deletion, as a sentence."""
    if deletion["ended_at"] is not None:
        kept = deletion["usage_kept_as"]
        usage = "" if kept is None else f" The totals of its usage are kept as {kept}."
        return f"{deletion['tenant']} was deleted at {deletion['ended_at'][:19]}.{usage}"
    return f"{deletion['tenant']} is disabled and is being deleted. Left: {_rows_left(deletion)}."


def _rows_left(deletion: Mapping[str, Any]) -> str:
    return ", ".join(f"{rows} {name.replace('_', ' ')}" for name, rows in deletion["left"].items())


def _storage(location: str | None) -> dict[str, str | None]:
    return {} if location is None else {"storage": location or None}


def _print(answer: dict[str, Any], text: str, *, as_json: bool) -> None:
    echo(json.dumps(answer) if as_json else text)
