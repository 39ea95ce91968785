"""Groups of commands for resources that need no others than the plain ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import click

from serve_app.cli.connection.resources import command_name, plain_group
from serve_app.resources.declaration import Resource
from serve_app.resources.registry import RESOURCES


def plain_groups(
    resources: Sequence[Resource[Any]] = RESOURCES,
) -> Mapping[str, Mapping[str, click.Group]]:
    """Heading of ``darkroom --help`` → name → group."""
    plain = [resource for resource in resources if resource.help_heading]
    groups: dict[str, dict[str, click.Group]] = {each.help_heading: {} for each in plain}
    for resource in plain:
        groups[resource.help_heading][command_name(resource)] = plain_group(resource)
    return groups
