"""Text of strangers, such as prompts, for a terminal."""

from __future__ import annotations

UNPRINTABLE = "\N{REPLACEMENT CHARACTER}"


def printable(text: str) -> str:
    """``text`` without the control characters that terminals obey."""
    return "".join(each if each.isprintable() else UNPRINTABLE for each in text)


def in_lines(text: str) -> str:
    """``text`` in its own lines, for a terminal."""
    return "\n".join(map(printable, text.splitlines()))


def one_line(text: str) -> str:
    """``text`` in one line, for a terminal."""
    return printable(" ".join(text.split()))


def shortened(text: str, most: int = 60) -> str:
    """``text`` in one line of at most ``most`` characters, for a terminal."""
    line = one_line(text)
    return line if len(line) <= most else f"{line[: most - 1]}…"
