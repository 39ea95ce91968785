"""The page of the command line, from the commands themselves."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

import click

from serve_app.cli.main import main

NAME = "darkroom"

HEAD = """# Command line

`scripts/reference` generates this page from the commands. Do not edit it.

In a clone of the repository, `darkroom` is `.venv/bin/darkroom`.

| option | meaning |
| --- | --- |
{shared}
## Exit codes

| code | meaning |
| --- | --- |
| 0 | The command succeeded. |
| 1 | The command failed. A sentence on stderr says why and what to do. |
| 2 | The command line is wrong: an unknown command, option or value. |
| 130 | Stopped by Ctrl-C. `darkroom generate` has cancelled its request; what `darkroom tune` has measured is kept. |

`darkroom doctor` and `darkroom models verify` exit with the number of problems or damaged files.
`darkroom verify`: 2 changed, 3 signer not known, 4 not signed, 5 an image drawn again differs.
`darkroom fsck`, `migrate check`, `models check` and `webhooks test`: 1 if they found a problem.

## Commands

The option `--help` of a command says more of it and explains its options. Commands with many options have a section below.

"""  # noqa: E501  one line a row

EXAMPLES = {
    "generate": (
        'darkroom generate "a red circle" -o circle.png --seed 7',
        'darkroom generate "a red circle" -o circle.png --draft 8',
        'darkroom generate "a red circle moves" -m fal-ai/wan/v2.2-5b/text-to-video -o circle.mp4',
        'darkroom generate "a siren" -m fal-ai/stable-audio -o siren.wav',
        'darkroom generate "a blue circle" --image circle.png --strength 0.6 -o blue.png',
        'darkroom generate "a red circle" --field guidance_scale=4 --preview preview.jpg',
        "echo a red circle | darkroom generate - -o - > circle.png",
    ),
    "models add": (
        "darkroom models add house/sd3 --weights owner/name --dry-run",
        "darkroom models add house/x --weights /srv/weights/x --like fal-ai/flux/dev",
    ),
}
"""Examples of commands that have a section. The tests parse them."""

SERVER = frozenset({"--context", "--data-dir", "--key", "--url"})
"""Options that choose a server, of commands that have all of them."""

OF_MANY = {
    "--json": "Print JSON for programs.",
    "--data-dir": "Use the installation with this data directory. "
    "Default: `DARKROOM_DATA_DIR`, or `~/.darkroom`.",
    "--help": "",
}
"""Options of nearly all commands. The head says which ones lack them."""

LEAST_SHARERS = 3
"""Commands with the same option, by its text, from which on that is documented once."""

LEAST_OF_A_TABLE = 10
"""Options of a command from which on they have a table. Fewer stand in its usage line."""

Group = Mapping[str, click.Command]
Shared = Mapping[tuple[str, str], str]


def page() -> str:
    """The whole page, in Markdown."""
    shared = _shared()
    rows = "".join(each.replace(" Default `20`.", "") for each in shared.values())
    head = HEAD.replace("{shared}\n", f"{_head_rows()}{rows}\n")
    every = commands()
    long = {name: each for name, each in every.items() if _has_table(each, shared)}
    short = {name: each for name, each in every.items() if name not in long}
    sections = (_section(name, each, shared) for name, each in long.items())
    return "".join([head, _table(short, shared), *sections])


def _head_rows() -> str:
    """Rows of the options that nearly all commands have."""
    local = [name for name, each in commands().items() if not _is_remote(each)]
    silent = [name for name, each in commands().items() if not _has(each, "--json")]
    server = (
        "The server: `--data-dir PATH`, `--url URL` or `--context NAME`, and `--key KEY`; see "
        "[another machine](../how-to/operate.md#from-another-machine)."
    )
    names = {True: local, False: silent}
    without = {key: ", ".join(f"`{each}`" for each in value) for key, value in names.items()}
    return (
        f"| `--url`, `--context`, `--key` | {server} Not of {without[True]}. |\n"
        f"| `--data-dir PATH` | {OF_MANY['--data-dir']} |\n"
        f"| `--json` | {OF_MANY['--json']} Not of {without[False]}. |\n"
        "| `-h`, `--help` | Show the help of any command. |\n"
    )


def _shared() -> dict[tuple[str, str], str]:
    """Options of several commands by name and help, with their row."""
    found: dict[tuple[str, str], list[str]] = {}
    for name, command in commands().items():
        for each in _documented_options(command):
            found.setdefault(_identity(each), []).append(_row(each, _context(name, command)))
    often = {key: rows[0] for key, rows in sorted(found.items()) if len(rows) >= LEAST_SHARERS}
    names = [name for name, _ in often]
    return {key: row for key, row in often.items() if names.count(key[0]) == 1}


def _documented_options(command: click.Command) -> list[click.Option]:
    """Options but those of the head."""
    known = OF_MANY.keys() | (SERVER if _is_remote(command) else set())
    return [
        each
        for each in command.params
        if isinstance(each, click.Option) and not each.hidden and not known.intersection(each.opts)
    ]


def _identity(option: click.Option) -> tuple[str, str]:
    return option.opts[-1], option.help or ""


def commands() -> dict[str, click.Command]:
    """Every command that can be run, by its words after ``darkroom``."""
    return dict(_commands(main, ()))


def _commands(group: click.Group, words: Sequence[str]) -> Iterator[tuple[str, click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if command is None:
            continue
        inner = (*words, name)
        if not isinstance(command, click.Group) or command.invoke_without_command:
            yield " ".join(inner), command
        if isinstance(command, click.Group):
            yield from _commands(command, inner)


def _section(name: str, command: click.Command, shared: Shared) -> str:
    usage = _usage(name, command, shared)
    parts = [f"\n### {NAME} {name}\n\n```text\n{usage}\n```\n\n{_help(command)}\n"]
    parts.append("\n| option | meaning |\n| --- | --- |\n")
    parts.extend(_row(each, _context(name, command)) for each in _own(command, shared))
    if name in EXAMPLES:
        parts.append("\n```sh\n" + "\n".join(EXAMPLES[name]) + "\n```\n")
    return "".join(parts)


def _table(group: Group, shared: Shared) -> str:
    cells = (
        (_cell(_usage(name, command, shared)), _cell(_summary(command)))
        for name, command in group.items()
    )
    rows = (f"| `{usage}` | {text} |\n" for usage, text in cells)
    return "".join(["| command | meaning |\n| --- | --- |\n", *rows])


def _own(command: click.Command, shared: Shared) -> list[click.Option]:
    return [each for each in _documented_options(command) if _identity(each) not in shared]


def _has_table(command: click.Command, shared: Shared) -> bool:
    return len(_own(command, shared)) >= LEAST_OF_A_TABLE


def _usage(name: str, command: click.Command, shared: Shared) -> str:
    context = _context(name, command)
    options = [] if _has_table(command, shared) else _own(command, shared)
    common = [each for each in _documented_options(command) if _identity(each) in shared]
    named = [
        f"[{each.opts[-1]}{'' if each.is_flag else f' {each.make_metavar(context)}'}]"
        for each in (*options, *common)
    ]
    pieces = [
        each
        for each in command.collect_usage_pieces(context)
        if each not in ("[OPTIONS]", "[COMMAND] [ARGS]...")
    ]
    return " ".join([NAME, name, *named, *pieces])


def _context(name: str, command: click.Command) -> click.Context:
    return click.Context(command, info_name=f"{NAME} {name}")


def _row(option: click.Option, context: click.Context) -> str:
    names = ", ".join(f"`{each}`" for each in option.opts)
    if not option.is_flag:
        names += f" `{_cell(option.make_metavar(context))}`"
    meaning = _cell(" ".join((option.help or "").split()))
    if option.multiple and "repeated" not in meaning:
        meaning = f"{meaning} May be repeated.".strip()
    default = f"Default {_default(option)}." if _default(option) else ""
    return f"| {names} | {' '.join(filter(None, (meaning, default)))} |\n"


def _default(option: click.Option) -> str:
    value = option.default
    if option.is_flag or option.multiple or callable(value) or value == "":
        return ""
    if value is None or not isinstance(value, str | int | float):
        return ""
    return f"`{value}`"


def _help(command: click.Command) -> str:
    return re.sub(r"\n[ \t]+", "\n", (command.help or "").replace("\b\n", "")).strip()


def _summary(command: click.Command) -> str:
    """The first paragraph of the help."""
    return " ".join(_help(command).partition("\n\n")[0].split())


def _is_remote(command: click.Command) -> bool:
    return all(_has(command, each) for each in SERVER)


def _has(command: click.Command, option: str) -> bool:
    return any(option in each.opts for each in command.params)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
