"""API keys of tenants. Those that were revoked are listed too."""

from __future__ import annotations

from serve_app.resources.declaration import Owner, Resource
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
    columns=(
        *("key_id", "alias", "person", "scopes", "endpoints", "state"),
        *("created_at", "expires_at", "last_used_at"),
    ),
)
