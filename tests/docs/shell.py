"""Shell commands of the docs, taken apart."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass

_NESTED = re.compile(r"\$\(([^()]+)\)")
_OPERATORS = frozenset({"|", "||", "&", "&&", ";", "(", ")"})


@dataclass(frozen=True)
class Step:
    """A command of a transcript and the output that it is shown with."""

    command: str
    output: str


def steps(transcript: str) -> list[Step]:
    """The commands of a block of the language ``console``: lines that begin with ``$``."""
    entries: list[tuple[str, list[str]]] = []
    for line in transcript.splitlines():
        if line.startswith("$ "):
            entries.append((line[2:], []))
        else:
            assert entries, f"A transcript begins with a command: {line}"
            entries[-1][1].append(line)
    return [Step(command, "\n".join(output)) for command, output in entries]


def simple_commands(script: str) -> Iterator[list[str]]:
    """The words of each simple command, also of those inside ``$(…)``, without redirections."""
    for line in script.replace("\\\n", " ").splitlines():
        yield from _of_line(line)


def _of_line(line: str) -> Iterator[list[str]]:
    for nested in _NESTED.findall(line):
        yield from _of_line(nested)
    lexer = shlex.shlex(_NESTED.sub("NESTED", line), posix=True, punctuation_chars=True)
    lexer.wordchars += "*@:%+,…[]{}!$^"
    lexer.commenters = "#"
    words: list[str] = []
    skip_next = False
    for token in lexer:
        if token in _OPERATORS:
            yield from [words] if words else []
            words = []
        elif set(token) <= set("<>&"):
            skip_next = True
        elif skip_next:
            skip_next = False
        else:
            words.append(token)
    yield from [words] if words else []
