"""One meaning of an option has one spelling, one metavar and one help text in all commands."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import click
import pytest

from serve_app.cli.main import main
from tests.docs.reference.cli import commands

COMMANDS = commands()

SEVERAL: Mapping[str, str] = {
    "--again": "what is done again differs",
    "--all": "what is shown or revoked differs",
    "--endpoint": "it filters, limits, or names what lines or weights are for",
    "--key": "`login` asks for it, and `migrate check` reads fal's variable",
    "--limit": "of tenants it is a limit of theirs",
    "--name": "of contexts, apps, and what people see",
    "--output": "a file, a folder, or nodes of a ComfyUI workflow",
    "--pool": "its default differs",
    "--replace": "what is replaced differs",
    "--state": "of requests or of deliveries",
    "--tenant": "all tenants may be named, or are the default",
    "--until": "of drafts it is the field of the API, a share of the steps",
    "--url": "for `migrate check`, the catalogue does in place of a server",
    "--variant": "of weights or of recipes",
    "--expires-in": "of links it has a default",
    "--for": "of warm targets",
}
"""Option with several texts → why."""

ENDLESS: Mapping[str, str] = {
    "contexts": "a file of this machine has few",
    "models": "it groups all of the catalogue",
}
"""Command that lists without --limit → why."""

NO_JSON: Mapping[str, str] = {
    "audit export": "it prints or writes lines of JSON",
    "completion": "it prints a script",
    "contexts use": "it changes a file of this machine",
    "drain-node": "it waits, and says nothing that a program needs",
    "login": "it changes a file of this machine",
    "logout": "it changes a file of this machine",
    "serve": "it runs until Ctrl-C",
    "serve-config": "it prints YAML",
    "storage lifecycle": "it prints JSON",
    "tenants export": "it writes a file",
    "watch-spot": "it runs until the machine ends",
}
"""Command without --json → why."""

FREE_TEXT = frozenset({"--reason", "--size"})


def all_options() -> Iterator[tuple[str, str, click.Option]]:
    """Command, spelling and option."""
    for path, command in {"": main, **COMMANDS}.items():
        for param in command.params:
            if isinstance(param, click.Option):
                yield from ((path, name, param) for name in (*param.opts, *param.secondary_opts))


def metavar(option: click.Option) -> str:
    if option.is_flag or isinstance(option.type, click.Choice):
        return ""
    return option.make_metavar(click.Context(main))


def test_an_option_has_one_metavar_and_one_help_text() -> None:
    texts: dict[str, set[tuple[str, str | None]]] = {}
    for _, name, option in all_options():
        if name.startswith("--"):
            texts.setdefault(name, set()).add((metavar(option), option.help))
    several = {name for name, variants in texts.items() if len(variants) > 1}
    assert several - SEVERAL.keys() == set()
    assert {name for name in SEVERAL if name not in texts} == set()


def test_one_help_text_has_one_spelling() -> None:
    spellings: dict[str, set[str]] = {}
    for _, _, option in all_options():
        spellings.setdefault(option.help or "", set()).add(max(option.opts, key=len))
    assert {text: forms for text, forms in spellings.items() if len(forms) > 1} == {}


def test_a_short_name_is_of_one_option() -> None:
    owners: dict[str, set[str]] = {}
    for _, name, option in all_options():
        if not name.startswith("--"):
            owners.setdefault(name, set()).add(max(option.opts, key=len))
    assert {name: holders for name, holders in owners.items() if len(holders) > 1} == {}


def test_an_option_says_what_it_is_and_what_its_value_is() -> None:
    for path, name, option in all_options():
        assert option.help, f"{path} {name}"
        assert option.help.endswith("."), f"{path} {name}: {option.help}"
        assert not option.help.startswith("Default"), f"{path} {name}"
        assert "RANGE" not in metavar(option), f"{path} {name}"
        assert metavar(option) != "TEXT" or name in FREE_TEXT, f"{path} {name}"


def test_an_option_that_may_be_repeated_says_so() -> None:
    for path, name, option in all_options():
        assert not option.multiple or "May be repeated" in str(option.help), f"{path} {name}"


@pytest.mark.parametrize("path", COMMANDS)
def test_a_command_prints_json_and_limits_lists(path: str) -> None:
    names = {name for place, name, _ in all_options() if place == path}
    assert ("--json" in names) != (path in NO_JSON)
    lists = path.endswith(" list") or COMMANDS[path].get_short_help_str(999).startswith("List ")
    if lists:
        assert ("--limit" in names) != (path in ENDLESS)
