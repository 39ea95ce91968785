"""The help of groups of commands, and what is said about names that no command has."""

from __future__ import annotations

import re
from collections import Counter

import click
import pytest
from click.testing import CliRunner

from serve_app.cli.connection.command_group import CommandGroup, sentence
from serve_app.cli.connection.suggestions import MEANT, SAME
from serve_app.cli.main import main
from serve_app.resources.registry import RESOURCES
from tests.docs.reference.cli import commands
from tests.docs.test_commands import parse

ROOT = click.Context(main)
NAMES = main.list_commands(ROOT)


def groups() -> dict[str, click.Group]:
    loaded = {name: main.get_command(ROOT, name) for name in NAMES}
    return {"": main} | {
        name: command for name, command in loaded.items() if isinstance(command, click.Group)
    }


def help_of(*words: str, columns: int = 100) -> str:
    result = CliRunner().invoke(
        main, [*words, "--help"], prog_name="darkroom", terminal_width=columns
    )
    assert result.exit_code == 0
    return result.output


def usage_error(words: str) -> str:
    """What is said about a wrong command line: one or two lines, and the exit status 2."""
    result = CliRunner().invoke(main, words.split(), prog_name="darkroom")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.count("\n") <= 2
    return result.stderr


def test_every_command_is_under_one_heading() -> None:
    assert isinstance(main, CommandGroup)
    listed = Counter(name for some in main.sections.values() for name in some)
    assert listed == Counter(NAMES)
    shown = help_of()
    assert [re.search(rf"^{section}:$", shown, re.M) is not None for section in main.sections]
    assert all(len(re.findall(rf"^  {name} ", shown, re.M)) == 1 for name in NAMES)


def test_every_resource_with_plain_commands_has_its_group() -> None:
    plain = [resource.plural.replace(" ", "-") for resource in RESOURCES if resource.about]
    assert set(plain) <= set(NAMES)


@pytest.mark.parametrize("path", [*groups(), *commands()])
def test_a_help_begins_with_a_whole_sentence(path: str) -> None:
    command: click.Command = parse(path.split()) if path else main
    begins = sentence(command)
    assert re.fullmatch(r"[A-Z].*\.", begins)
    assert len(begins) <= 82  # beside the longest name, in 100 columns


@pytest.mark.parametrize("path", groups())
def test_no_sentence_is_cut(path: str) -> None:
    for columns in (100, 50):
        assert "..." not in help_of(*path.split(), columns=columns).partition("\n\n")[2]


def test_every_group_gives_advice() -> None:
    assert all(isinstance(group, CommandGroup) for group in groups().values())


@pytest.mark.parametrize(
    ("words", "meant"),
    {
        "genrate": "Did you mean `darkroom generate`?",
        "ps": "Use `darkroom top` for what runs, `darkroom queue` for what waits.",
        "pull fal-ai/flux/dev": "Use `darkroom models pull`.",
        "list": "Use `darkroom models`.",
        "run flux": "Use `darkroom generate`.",
        "up": "Use `darkroom serve`.",
        "requests ls": "Did you mean `darkroom requests list`?",
        "models ls": "Did you mean `darkroom models`?",
        "keys add": "Did you mean `darkroom keys create`?",
        "keys rm x": "Did you mean `darkroom keys revoke`?",
        "secrets create": "Did you mean `darkroom secrets set`?",
        "requests stop x": "Did you mean `darkroom requests cancel`?",
        "drafts get x": "Did you mean `darkroom drafts show`?",
        "webhooks retry": "Did you mean `darkroom webhooks redeliver`?",
        "endpoints start": "Did you mean `darkroom endpoints resume`?",
        "tenants exprot": "Did you mean `darkroom tenants export`?",
        "frobnicate": "`darkroom --help` lists the commands.",
        "keys zzz": "`darkroom keys --help` lists the commands.",
        "generate --sead 3": "Did you mean `--seed`?",
        "generate --frobnicate": "`darkroom generate --help` lists the options.",
    }.items(),
)
def test_a_wrong_name_gets_advice(words: str, meant: str) -> None:
    assert usage_error(words).rstrip().endswith(meant)


def test_names_of_other_tools_are_none_of_ours() -> None:
    assert MEANT.keys().isdisjoint(NAMES)


@pytest.mark.parametrize(
    "command",
    sorted({command for text in MEANT.values() for command in re.findall("`(.*?)`", text)}),
)
def test_what_is_advised_can_be_typed(command: str) -> None:
    program, *words = command.split()
    assert program in ("darkroom", "pip")
    if program == "darkroom":
        parse(words)


def test_every_word_has_a_command_of_its_own() -> None:
    own = {
        name for group in groups().values() for name in group.list_commands(click.Context(group))
    }
    for words in SAME:
        assert own.intersection(words), words


@pytest.mark.parametrize("words", [["--help"], ["keys", "--help"], ["genrate"]], ids=" ".join)
def test_help_and_errors_have_no_colours(words: list[str]) -> None:
    """They have none on a terminal either, so that NO_COLOR has nothing to do."""
    shown = CliRunner().invoke(main, words, color=True).output
    assert "\x1b" not in shown
