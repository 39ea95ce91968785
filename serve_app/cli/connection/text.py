"""Text of strangers, such as prompts, for a terminal."""

from __future__ import annotations

import re
import sys

import click

from serve_app.domain.errors import InvalidInput

UNPRINTABLE = "\N{REPLACEMENT CHARACTER}"

_COMMANDS = re.compile(
    "\r(?!\n)|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\u202a-\u202e\u2066-\u2069]"
)
"""Controls but tab and ends of lines, which terminals obey; halves of surrogate pairs, which are no
text; and marks that turn the direction of the text around them."""


def echo(text: object = "", *, err: bool = False, nl: bool = True) -> None:
    """Print a text, which servers and files may have parts of, without what terminals obey.

    Commands print by this alone: a part that a server says is often no more than a name."""
    shown = _COMMANDS.sub(UNPRINTABLE, str(text))
    click.echo(shown, err=err, nl=nl)  # noqa: TID251 this is the place


def printable(text: str) -> str:
    """``text`` without the control characters that terminals obey."""
    return "".join(character if character.isprintable() else UNPRINTABLE for character in text)


def in_lines(text: str) -> str:
    """``text`` in its own lines, for a terminal."""
    return "\n".join(map(printable, text.splitlines()))


def one_line(text: str) -> str:
    """``text`` in one line, for a terminal."""
    return printable(" ".join(text.split()))


def shorten(text: str, most: int = 60) -> str:
    """``text`` in one line of at most ``most`` characters, for a terminal."""
    line = one_line(text)
    return line if len(line) <= most else f"{line[: most - 1]}…"


def counted(number: int, noun: str) -> str:
    """A number of things, such as "1 file" or "2 files"."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def size_text(size: float) -> str:
    """Bytes as people read them, with the digits that the page shows."""
    if size < 1000:
        return f"{size:g} B"
    if size < 1e6:
        return f"{size / 1e3:.0f} KB"
    return f"{size / 1e6:.1f} MB" if size < 1e9 else f"{size / 1e9:.1f} GB"


def standard_input() -> str:
    """All text on standard input. ``InvalidInput``: it is not UTF-8."""
    try:
        text = sys.stdin.read()
        text.encode()  # in some locales, Python reads other bytes as lone surrogates
    except UnicodeError:
        raise InvalidInput("Standard input is not text in UTF-8.") from None
    return text
