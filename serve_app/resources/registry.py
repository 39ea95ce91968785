"""All resources. Another one is its declaration, a line here, and its table in the schema, if plain
calls suffice for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from serve_app.resources.declaration import Resource
from serve_app.resources.drafts import DRAFTS
from serve_app.resources.entries import ENTRIES
from serve_app.resources.jobs import JOBS
from serve_app.resources.keys import KEYS
from serve_app.resources.secrets import SECRETS
from serve_app.resources.shares import SHARES
from serve_app.resources.tenants import TENANTS
from serve_app.resources.warm_targets import WARM_TARGETS
from serve_app.resources.weights import WEIGHTS
from serve_app.resources.workflows import WORKFLOWS

RESOURCES: Sequence[Resource[Any]] = (
    *(DRAFTS, ENTRIES, JOBS, KEYS, SECRETS, SHARES, TENANTS, WARM_TARGETS, WEIGHTS, WORKFLOWS),
)
