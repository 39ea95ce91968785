"""Commands that the docs show can be typed as they stand there."""

from __future__ import annotations

import re
import shlex

import click
import pytest

from serve_app.cli.main import main
from serve_app.settings import FIELDS
from tests.docs.pages import PAGES, ROOT, blocks, indented_blocks, inline
from tests.docs.shell import simple_commands, steps

DARKROOM = re.compile(r"^(?:\$ )?darkroom (\S.*)")
SERVE_RUN = re.compile(r"^serve run (\S+)(.*)$", re.M)


def scripts() -> list[str]:
    """All shell commands of all pages, those of transcripts without their output."""
    commands: list[str] = []
    for page in PAGES:
        commands += indented_blocks(page)
        commands += [script.text for script in blocks(page, "sh")]
        for block in blocks(page, "console"):
            commands += [step.command for step in steps(block.text)]
    return commands


def darkroom_commands() -> list[str]:
    """Every call of ``darkroom`` in a block or in a line of text. Brackets say that a part may be
    left out."""
    commands = {
        shlex.join(words[1:])
        for script in scripts()
        if "darkroom" in script
        for words in simple_commands(script)
        if words[0] in {"darkroom", ".venv/bin/darkroom"} and len(words) > 1
    }
    for text in (piece for page in PAGES for piece in inline(page)):
        if match := DARKROOM.match(text):
            commands.add(match[1].replace("[", "").replace("]", ""))
    return sorted(commands)


def parse(words: list[str]) -> click.Command:
    """The command that ``words`` mean; an option that it lacks raises."""
    command: click.Command = main
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        subcommand = command.get_command(click.Context(command), words[0])
        assert subcommand is not None, f"There is no command {words[0]}."
        command, words = subcommand, words[1:]
    command.make_parser(click.Context(command)).parse_args(words)
    return command


@pytest.mark.parametrize("command", darkroom_commands())
def test_a_command_takes_what_it_is_shown_with(command: str) -> None:
    parse(shlex.split(command))


def test_an_option_that_is_not_there_is_noticed() -> None:
    with pytest.raises(click.UsageError):
        parse(["serve", "--no-such-option"])


def test_what_serve_run_is_shown_with_is_there() -> None:
    texts = [*scripts(), *(piece for page in PAGES for piece in inline(page))]
    matches = [match for text in texts for match in SERVE_RUN.finditer(text)]
    assert matches
    for path, arguments in (match.groups() for match in matches):
        if path.endswith(".yaml"):
            assert (ROOT / path).is_file()
            continue
        assert path == "serve_app.app:build"
        options = {argument.partition("=")[0] for argument in arguments.split()}
        assert options <= FIELDS.keys()
