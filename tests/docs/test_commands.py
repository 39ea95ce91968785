"""Commands that the docs show can be typed as they stand there."""

from __future__ import annotations

import re
import shlex

import click
import pytest

from serve_app.cli.main import main
from serve_app.settings import Config
from tests.docs.pages import DOCS, PAGES, ROOT, blocks, code, indented, inline, table

DARKROOM = re.compile(r"(?:^|(\$\()|[;&] |bin/)darkroom (\S.*)", re.M)
SERVE_RUN = re.compile(r"^serve run (\S+)(.*)$", re.M)


def shown() -> list[str]:
    """All that is code and no Python, of all pages."""
    return [
        text
        for page in PAGES
        for text in (*indented(page), *inline(page), *(each.text for each in blocks(page, "sh")))
    ]


def darkroom_commands() -> list[str]:
    found = (match for text in shown() for match in DARKROOM.finditer(text))
    return sorted({each[2].partition(")")[0] if each[1] else each[2] for each in found})


def parse(words: list[str]) -> click.Command:
    """The command that ``words`` mean; an option that it lacks raises."""
    command: click.Command = main
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        found = command.get_command(click.Context(command), words[0])
        assert found is not None, f"There is no command {words[0]}."
        command, words = found, words[1:]
    command.make_parser(click.Context(command)).parse_args(words)
    return command


@pytest.mark.parametrize("command", darkroom_commands())
def test_a_command_takes_what_it_is_shown_with(command: str) -> None:
    # Brackets say that something may be left out.
    parse(shlex.split(command.replace("[", "").replace("]", "")))


def test_an_option_that_is_not_there_is_noticed() -> None:
    with pytest.raises(click.UsageError):
        parse(["serve", "--no-such-option"])


def test_every_command_is_shown() -> None:
    rows = table(DOCS / "08-operation.md", "command")
    told = {tuple(one.split()[1:3]) for cells in rows for one in code(cells[0])}
    context = click.Context(main)
    for name in main.list_commands(context):
        command = main.get_command(context, name)
        if isinstance(command, click.Group):
            assert {(name, inner) for inner in command.list_commands(context)} <= told
        else:
            assert name in {each[0] for each in told}


def test_every_option_is_shown() -> None:
    told = table(DOCS / "08-operation.md", "command")
    text = " ".join(cells[0] for cells in told)
    context = click.Context(main)
    for name in ("serve", "generate"):
        command = main.get_command(context, name)
        assert command is not None
        options = {option.opts[0] for option in command.params if isinstance(option, click.Option)}
        missing = {
            each
            for each in options - {"--data-dir", "--json", "-m"}
            if f"{each} " not in f"{text} "
        }
        assert {each for each in missing if f"{each}]" not in text} == set()


def test_what_serve_run_is_shown_with_is_there() -> None:
    found = [match for text in shown() for match in SERVE_RUN.finditer(text)]
    assert found
    for path, arguments in (match.groups() for match in found):
        if path.endswith(".yaml"):
            assert (ROOT / path).is_file()
            continue
        assert path == "serve_app.app:build"
        given = {each.partition("=")[0] for each in arguments.split()}
        assert given <= Config.model_fields.keys()
