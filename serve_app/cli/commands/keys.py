"""``darkroom keys``: list, create and revoke API keys."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import click

from serve_app.cli.connection.client import Client
from serve_app.cli.connection.server import Server


def list_keys(server: Server, tenant: str | None, *, as_json: bool) -> None:
    """Print one line per key: id, scopes, creation date, state and name."""
    with Client(server) as client:
        answer = client.get("/v1/keys", tenant=tenant)
    if as_json:
        click.echo(json.dumps(answer))
        return
    for key in answer["keys"]:
        scopes = ",".join(key["scopes"])
        click.echo(
            f"{key['key_id']:<24} {scopes:<10} {key['created_at'][:10]}  {_status_text(key):<20} "
            f"{key['alias']}".rstrip()
        )


def create(
    server: Server,
    *,
    name: str,
    tenant: str | None,
    scopes: tuple[str, ...],
    days: float | None,
    replay_undelivered: bool,
    as_json: bool,
) -> None:
    """Create a key and print it."""
    wish: dict[str, Any] = {"alias": name, "scopes": list(scopes)}
    if tenant is not None:
        wish["tenant"] = tenant
    if days is not None:
        wish["expires_at"] = (datetime.now(UTC) + timedelta(days=days)).isoformat()
    if replay_undelivered:
        wish["replay_undelivered"] = True
    with Client(server) as client:
        answer = client.post("/v1/keys", wish)
    if as_json:
        click.echo(json.dumps(answer))
        return
    # Standard output contains only the key, so that it can be piped.
    click.echo(answer["key"])
    click.echo(
        "Save this key now: only its digest is stored, so it cannot be shown again.", err=True
    )


def revoke(server: Server, key_id: str, *, as_json: bool) -> None:
    with Client(server) as client:
        client.delete(f"/v1/keys/{key_id}")
    result = {"key_id": key_id, "revoked": True}
    click.echo(
        json.dumps(result)
        if as_json
        else f"{key_id} is revoked. All replicas refuse it within 5 s."
    )


def _status_text(key: dict[str, Any]) -> str:
    if key["revoked_at"]:
        return f"revoked {key['revoked_at'][:10]}"
    if key["expires_at"]:
        gone = datetime.fromisoformat(key["expires_at"]) <= datetime.now(UTC)
        return f"{'expired' if gone else 'until'} {key['expires_at'][:10]}"
    return "valid"
