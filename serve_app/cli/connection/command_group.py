"""Groups of commands: their help, and what they say about a name that they do not have."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import click

from serve_app.cli.connection.suggestions import advice


class CommandGroup(click.Group):
    """Group whose help shows whole sentences, and which says what a wrong name may mean.

    ``sections``: heading of the help → names of its commands. Empty: one list of all.
    """

    def __init__(
        self, *arguments: Any, sections: Mapping[str, Collection[str]] | None = None, **more: Any
    ) -> None:
        super().__init__(*arguments, **more)
        self.sections = sections or {}

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        names = self.list_commands(ctx)
        width = max(map(len, names), default=0)
        for heading, of_section in (self.sections or {"Commands": names}).items():
            commands = ((name, self.get_command(ctx, name)) for name in of_section)
            rows = [(name.ljust(width), sentence(command)) for name, command in commands if command]
            with formatter.section(heading):
                formatter.write_dl(rows)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.NoSuchCommand as error:
            # Without the context, which would print the usage before the sentence.
            raise click.UsageError(advice(self, ctx, error.command_name)) from None


def sentence(command: click.Command) -> str:
    """First sentence of a command's help."""
    return command.get_short_help_str(limit=1000)
