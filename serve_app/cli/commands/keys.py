"""``darkroom keys`` and ``darkroom tenants``: API keys, and the tenants that they belong to."""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from functools import wraps
from typing import Any
from urllib.parse import quote

import click

from serve_app.cli.commands.warm import Duration
from serve_app.cli.connection import options
from serve_app.cli.connection.client import Client
from serve_app.cli.connection.one_time_link import network_lines, offer_link
from serve_app.cli.connection.remote import Remote
from serve_app.cli.connection.remote import origin as origin_of
from serve_app.cli.connection.server import Server
from serve_app.tenants.scopes import API, SCOPES

DAY_S = 86_400.0
MINUTE_S = 60.0


@click.group("keys")
def keys_group() -> None:
    """Create, list, rotate and revoke API keys, and sign browsers in."""


@keys_group.command("list")
@options.server
@click.option("--tenant", default=None, help="Default: the first key's tenant.")
@options.as_json
def list_keys(server: Server, tenant: str | None, *, as_json: bool) -> None:
    """List a tenant's keys. Secrets are not stored and cannot be shown."""
    with Client(server) as client:
        answer = client.get("/v1/keys", tenant=tenant)
    if as_json:
        click.echo(json.dumps(answer))
        return
    for key in answer["keys"]:
        scopes = ",".join(key["scopes"])
        limited = f"  only {', '.join(key['endpoints'])}" if key["endpoints"] else ""
        click.echo(
            f"{key['key_id']:<24} {scopes:<10} {key['created_at'][:10]}  {_status_text(key):<20} "
            f"{_use_text(key):<16} {key['person'] or key['alias']}{limited}".rstrip()
        )


@keys_group.command("create")
@options.server
@click.argument("name", default="")
@click.option(
    "--tenant", default=None, help="Tenant that owns the key. Created if it does not exist."
)
@click.option(
    "--scope",
    "scopes",
    type=click.Choice(SCOPES),
    multiple=True,
    default=(API,),
    show_default=True,
    help="Scope of the key. May be repeated.",
)
@click.option(
    "--endpoint",
    "endpoints",
    multiple=True,
    help="The only endpoints of the key, such as 'fal-ai/flux/*'. May be repeated. Default: all.",
)
@click.option(
    "--days",
    type=click.FloatRange(min=0, min_open=True),
    default=None,
    help="Days until the key expires. Default: it does not expire.",
)
@click.option(
    "--expires", "expires_s", type=Duration(), help="The same as a time, such as 12h or 90d."
)
@click.option(
    "--replay-undelivered",
    is_flag=True,
    help="If the response to a submit is lost, return the same request to the client's retry. "
    "The request is billed once.",
)
@options.as_json
def create(
    server: Server,
    name: str,
    tenant: str | None,
    scopes: tuple[str, ...],
    endpoints: tuple[str, ...],
    days: float | None,
    expires_s: float | None,
    **flags: bool,
) -> None:
    """Create a key called NAME and print it. It cannot be shown again."""
    if days is not None and expires_s is not None:
        raise click.UsageError("Use --days or --expires, not both.")
    wish: dict[str, Any] = {"alias": name, "scopes": list(scopes)}
    if tenant is not None:
        wish["tenant"] = tenant
    if endpoints:
        wish["endpoints"] = list(endpoints)
    valid_s = expires_s if days is None else days * DAY_S
    if valid_s is not None:
        wish["expires_at"] = (datetime.now(UTC) + timedelta(seconds=valid_s)).isoformat()
    if flags["replay_undelivered"]:
        wish["replay_undelivered"] = True
    with Client(server) as client:
        answer = client.post("/v1/keys", wish)
    _show_secret(answer, as_json=flags["as_json"])


@keys_group.command("rotate")
@options.server
@click.argument("key_id")
@click.option(
    "--overlap",
    "overlap_s",
    type=Duration(),
    default="1d",
    show_default=True,
    help="Time in which the old key still works, such as 1h; 0s: none.",
)
@options.as_json
def rotate(server: Server, key_id: str, overlap_s: float, *, as_json: bool) -> None:
    """Replace a key by one with the same rights, and print the new one."""
    with Client(server) as client:
        answer = client.post(f"{_key_path(key_id)}/rotate", {"overlap_s": overlap_s})
    _show_secret(answer, as_json=as_json)


@keys_group.command("revoke")
@options.server
@click.argument("key_id")
@options.as_json
def revoke(server: Server, key_id: str, *, as_json: bool) -> None:
    """Revoke a key permanently."""
    with Client(server) as client:
        client.delete(_key_path(key_id))
    result = {"key_id": key_id, "revoked": True}
    click.echo(
        json.dumps(result)
        if as_json
        else f"{key_id} is revoked. All replicas refuse it within 5 s."
    )


@keys_group.command("link")
@options.server
@click.option(
    "--for",
    "valid_s",
    type=Duration(),
    default="12h",
    show_default=True,
    help="Time in which it can be opened, such as 10m.",
)
@click.option(
    "--at",
    "origin",
    default=None,
    help="Address at which the browser reaches Darkroom. Default: the one that this command uses.",
)
@options.as_json
def link(server: Server, valid_s: float, origin: str | None, *, as_json: bool) -> None:
    """Print a link that opens the page signed in, once. The browser gets a key of its own, with the
    rights of the key that this command uses."""
    if not MINUTE_S <= valid_s <= 7 * DAY_S:
        raise click.UsageError("--for takes a time from 1m to 7d.")
    at = origin_of(origin or server.url())
    with Client(server) as client:
        answer = offer_link(client, valid_s=valid_s)
    url = f"{at}{answer['path']}"
    if as_json:
        click.echo(json.dumps({"url": url, "expires_at": answer["expires_at"]}))
    elif sys.stdout.isatty() and not Remote(at, "").is_this_machine:
        for line in network_lines(url):
            click.echo(line)
    else:
        click.echo(url)


def _key_path(key_id: str) -> str:
    return f"/v1/keys/{quote(key_id, safe='')}"


def _show_secret(created: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(created))
        return
    # Standard output contains only the key, so that it can be piped.
    click.echo(created["key"])
    click.echo(
        "Save this key now: only its digest is stored, so it cannot be shown again.", err=True
    )


def _status_text(key: dict[str, Any]) -> str:
    if key["revoked_at"]:
        return f"revoked {key['revoked_at'][:10]}"
    if key["expires_at"]:
        gone = datetime.fromisoformat(key["expires_at"]) <= datetime.now(UTC)
        return f"{'expired' if gone else 'until'} {key['expires_at'][:10]}"
    return "valid"


def _use_text(key: dict[str, Any]) -> str:
    return f"used {key['last_used_at'][:10]}" if key["last_used_at"] else "never used"


# Tenants.


LimitValue = tuple[str, float | str | None]


class Limit(click.ParamType[LimitValue]):
    """``NAME=VALUE``, or ``NAME=`` for the limit of the settings again."""

    name = "limit"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> LimitValue:
        name, equals, text = str(value).partition("=")
        if not equals:
            self.fail(f"{value} should be NAME=VALUE, such as max_running=4", param, ctx)
        try:
            given = float(text)
        except ValueError:
            return name, text or None  # a word, such as `private`
        if not math.isfinite(given):
            self.fail(f"{value} has no number. {name}= is that of the settings again", param, ctx)
        # Most limits are whole numbers, which JSON would show as 4.0.
        return name, int(given) if given.is_integer() else given


class BudgetOption(click.ParamType[Mapping[str, Any]]):
    """``AMOUNT CURRENCY/PERIOD``, or an empty text, as an empty mapping."""

    name = "budget"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Mapping[str, Any]:
        if not str(value).strip():
            return {}
        found = re.fullmatch(r"\s*([\d.]+)\s*([A-Z]{3})\s*/\s*(day|month)\s*", str(value))
        if found is None:
            self.fail(f"{value} should be such as '200 EUR/month' or '5 USD/day'", param, ctx)
        amount, currency, period = found.groups()
        return {"amount": amount, "currency": currency, "period": period}


limit_option = click.option(
    "--limit",
    "limits",
    type=Limit(),
    multiple=True,
    help="A limit, such as max_running=4; without a value, that of the settings again. May be "
    "repeated.",
)


budget_option = click.option(
    "--budget",
    type=BudgetOption(),
    default=None,
    help="What it may spend, such as '200 EUR/month' or '5 USD/day'; empty: that of the settings "
    "again.",
)
warn_at_option = click.option(
    "--warn-at",
    type=float,
    multiple=True,
    help="With --budget: share of it that warns, such as 0.8. May be repeated.",
)
only_warn_option = click.option(
    "--only-warn", is_flag=True, help="With --budget: refuse nothing above it."
)
webhook_option = click.option(
    "--budget-webhook", default=None, help="With --budget: URL that is called with each warning."
)


def budget_options(command: Callable[..., None]) -> Callable[..., None]:
    """The options of a budget. The command gets them together, as ``budget``."""

    @wraps(command)
    def called(
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

    return budget_option(warn_at_option(only_warn_option(webhook_option(called))))


storage_option = click.option(
    "--storage",
    default=None,
    help="Storage location of its new files; empty: the installation's own again.",
)


def tenant_path(tenant: str) -> str:
    """Path of a tenant in the API. A typed name can lead to no other path."""
    return f"/v1/tenants/{quote(tenant, safe='')}"


@click.group("tenants")
def tenants_group() -> None:
    """Create, show, change, disable, export and delete tenants."""


@tenants_group.command("list")
@options.server
@options.as_json
def list_tenants(server: Server, *, as_json: bool) -> None:
    """List all tenants."""
    with Client(server) as client:
        answer = client.get("/v1/tenants")
    if as_json:
        click.echo(json.dumps(answer))
        return
    for tenant in answer["tenants"]:
        own = [name for name, limit in tenant["limits"].items() if limit["source"] != "default"]
        limited = f"  own {', '.join(own)}" if own else ""
        click.echo(
            f"{tenant['tenant']:<24} {_state_text(tenant):<10} {tenant['valid_keys']:>4} keys  "
            f"{tenant['name']}{limited}"
        )


@tenants_group.command("create")
@options.server
@click.argument("tenant")
@click.option("--name", default="", help="Name for people. Default: the id.")
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
    """Create TENANT, without keys."""
    given = {**dict(limits), **budget, **_storage(storage)}
    wish = {"tenant": tenant, "name": name, "limits": given}
    with Client(server) as client:
        _print_tenant(client.post("/v1/tenants", wish), as_json=as_json)


@tenants_group.command("show")
@options.server
@click.argument("tenant")
@options.as_json
def show_tenant(server: Server, tenant: str, *, as_json: bool) -> None:
    """Show TENANT with its limits, and where each comes from."""
    with Client(server) as client:
        _print_tenant(client.get(tenant_path(tenant)), as_json=as_json)


@tenants_group.command("set")
@options.server
@click.argument("tenant")
@click.option("--name", default=None, help="Name for people.")
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
    """Change the name, limits, budget or storage of TENANT. It is in force within seconds."""
    wish: dict[str, Any] = {} if name is None else {"name": name}
    if changes := {**dict(limits), **budget, **_storage(storage)}:
        wish["limits"] = changes
    with Client(server) as client:
        _print_tenant(client.patch(tenant_path(tenant), wish), as_json=as_json)


@tenants_group.command("disable")
@options.server
@click.argument("tenant")
@click.option("--cancel", is_flag=True, help="Cancel what is queued. Default: it waits.")
@options.as_json
def disable_tenant(server: Server, tenant: str, *, cancel: bool, as_json: bool) -> None:
    """Refuse all keys of TENANT. What runs ends."""
    with Client(server) as client:
        shown = client.put(f"{tenant_path(tenant)}/disable", {"cancel_queued": cancel})
    queued = "is being cancelled" if cancel else "waits until it is enabled"
    _print(shown, f"{tenant} is disabled. What is queued {queued}.", as_json=as_json)


@tenants_group.command("enable")
@options.server
@click.argument("tenant")
@options.as_json
def enable_tenant(server: Server, tenant: str, *, as_json: bool) -> None:
    """Accept the keys of TENANT again."""
    with Client(server) as client:
        shown = client.put(f"{tenant_path(tenant)}/enable")
    _print(shown, f"{tenant} is enabled.", as_json=as_json)


def _storage(given: str | None) -> dict[str, str | None]:
    return {} if given is None else {"storage": given or None}


def _print_tenant(tenant: dict[str, Any], *, as_json: bool) -> None:
    lines = [
        f"{tenant['tenant']}  {_state_text(tenant)}  {tenant['valid_keys']} keys  {tenant['name']}",
        *(
            f"  {name:<20} {'no limit' if each['value'] is None else each['value']!s:<14} "
            f"{each['source']}"
            for name, each in tenant["limits"].items()
        ),
    ]
    if (budget := tenant["budget"]) is not None:
        text = f"{budget['amount']} {budget['currency']}/{budget['period']}"
        only = "" if budget["stop"] else "  only warns"
        lines.append(f"  {'budget':<20} {text:<14} {budget['source']}{only}")
    if tenant["storage"] is not None:
        lines.append(f"  {'storage':<20} {tenant['storage']}")
    _print(tenant, "\n".join(lines), as_json=as_json)


def _print(answer: dict[str, Any], text: str, *, as_json: bool) -> None:
    click.echo(json.dumps(answer) if as_json else text)


def _state_text(tenant: dict[str, Any]) -> str:
    return "enabled" if tenant["disabled_at"] is None else "disabled"
