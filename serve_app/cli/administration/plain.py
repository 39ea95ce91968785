"""Groups of commands for resources that need no others than the plain ones."""

from __future__ import annotations

from collections.abc import Mapping

import click

from serve_app.cli.connection.resources import plain_group
from serve_app.resources.registry import RESOURCES

GROUPS: Mapping[str, click.Group] = {
    each.plural.replace(" ", "-"): plain_group(each) for each in RESOURCES if each.about
}
