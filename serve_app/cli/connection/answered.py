"""Whether a server has answered the command that runs."""

from __future__ import annotations

import click

_NAME = f"{__name__}.url"


def note_answer(url: str) -> None:
    """Note that the server at ``url`` has answered."""
    context = click.get_current_context(silent=True)
    if context is not None:
        context.meta[_NAME] = url


def answering_url(context: click.Context) -> str | None:
    """Address of the server that has answered; None if none has."""
    return context.meta.get(_NAME)
