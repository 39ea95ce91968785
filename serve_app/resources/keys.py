"""API keys of tenants. Those that were revoked are listed too."""

from __future__ import annotations

from serve_app.resources.declaration import Column, Owner, Resource
from serve_app.tenants.api_keys import ApiKey
from serve_app.tenants.scopes import TENANT_ADMIN

KEYS = Resource(
    name="key",
    path="/v1/keys",
    model=ApiKey,
    key="key_id",
    key_description="The part of the key before the colon.",
    scope=TENANT_ADMIN,
    owner=Owner.TENANT,
    other_tables=("api_keys",),
    deletion="Programs that use it are refused within seconds. This cannot be undone.",
    delete_verb="revoke",
    columns=(
        Column("key_id", "Key"),
        *(Column("alias", "Name", under="key_id"), Column("person", under="key_id"), "scopes"),
        *(Column("endpoints", "Only endpoints", "all", under="scopes"), "state"),
        Column("created_at", "Created"),
        Column("expires_at", "Expires", "never"),
        Column("last_used_at", "Last used", "never"),
    ),
)
