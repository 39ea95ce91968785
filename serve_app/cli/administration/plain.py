"""Groups of commands for resources that need no others than the plain ones."""

from __future__ import annotations

from typing import Any

import click

from serve_app.cli.connection import resources
from serve_app.resources.declaration import Resource
from serve_app.resources.drafts import DRAFTS
from serve_app.resources.shares import SHARES
from serve_app.resources.workflows import WORKFLOWS


def _group(resource: Resource[Any], help_: str, effect: str) -> click.Group:
    group = click.Group(resource.plural, help=help_)
    resources.add_list(group, resource)
    resources.add_delete(group, resource, effect)
    return group


drafts_group = _group(
    DRAFTS,
    "Look at drafts, and delete them.",
    "Requests that already go on from it still do; new ones are refused.",
)
shares_group = _group(
    SHARES, "Look at the links with which anyone reads a request.", "It answers 404 from then on."
)
workflows_group = _group(
    WORKFLOWS,
    "Look at registered workflows, and delete them.",
    "Requests that have started continue; those that have not fail.",
)
