"""The page of the command line, from the commands themselves."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

import click

from serve_app.cli.main import main

NAME = "darkroom"

HEAD = """# Command line

`scripts/reference` generates this page from the commands. Do not edit it.

In a clone of the repository, `darkroom` is `.venv/bin/darkroom`. The option `--help` of a command explains its options,
and says which of these it has:

| option of several commands | meaning |
| --- | --- |
| `--url`, `--context`, `--key` | The server, of commands that call one: `--data-dir PATH`, `--url URL` or `--context NAME`, and `--key KEY`; see [another machine](../how-to/operate.md#from-another-machine). |
| `--data-dir PATH` | Use the installation with this data directory. Default: `DARKROOM_DATA_DIR`, or `~/.darkroom`. |
| `--json` | Print JSON for programs. |
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

## Generate

```sh
darkroom generate "a red circle" -o circle.png --seed 7
darkroom generate "a red circle" -o circle.png --draft 8
darkroom generate "a red circle moves" -m fal-ai/wan/v2.2-5b/text-to-video -o circle.mp4
darkroom generate "a siren" -m fal-ai/stable-audio -o siren.wav
darkroom generate "a blue circle" --image circle.png --strength 0.6 -o blue.png
darkroom generate "a red circle" --field guidance_scale=4 --preview preview.jpg
echo a red circle | darkroom generate - -o - > circle.png
```

## Commands

"""  # noqa: E501  one line a row

SERVER = frozenset({"--context", "--data-dir", "--key", "--url"})
"""Options that choose a server, of commands that have all of them."""

OF_MANY = frozenset({"--data-dir", "--help", "--json"})
"""Options of nearly all commands, which the head describes."""

LEAST_SHARERS = 3
"""Commands with the same option, by its text, from which on that is documented once."""


def page() -> str:
    """The whole page, in Markdown."""
    shared = _shared()
    head = HEAD.replace("{shared}", "".join(shared.values()))
    lines = (
        f"- `{_usage(name, command, shared)}`: {_summary(command)}\n"
        for name, command in commands().items()
    )
    return "".join([head, *lines])


def _shared() -> dict[tuple[str, str], str]:
    """Options of several commands by name and help, with their row."""
    sharers: dict[tuple[str, str], list[str]] = {}
    for name, command in commands().items():
        for option in _documented_options(command):
            sharers.setdefault(_identity(option), []).append(_row(option, _context(name, command)))
    often = {key: rows[0] for key, rows in sorted(sharers.items()) if len(rows) >= LEAST_SHARERS}
    names = [name for name, _ in often]
    return {key: row for key, row in often.items() if names.count(key[0]) == 1}


def _documented_options(command: click.Command) -> list[click.Option]:
    """Options but those of the head."""
    known = OF_MANY | (SERVER if _is_remote(command) else set())
    return [
        param
        for param in command.params
        if isinstance(param, click.Option)
        and not param.hidden
        and not known.intersection(param.opts)
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


def _usage(name: str, command: click.Command, shared: Mapping[tuple[str, str], str]) -> str:
    """The command with its own options."""
    context = _context(name, command)
    named = [
        f"[{option.opts[-1]}{'' if option.is_flag else f' {option.make_metavar(context)}'}]"
        for option in _documented_options(command)
        if _identity(option) not in shared
    ]
    pieces = [
        piece
        for piece in command.collect_usage_pieces(context)
        if piece not in ("[OPTIONS]", "[COMMAND] [ARGS]...")
    ]
    return " ".join([NAME, name, *named, *pieces])


def _context(name: str, command: click.Command) -> click.Context:
    return click.Context(command, info_name=f"{NAME} {name}")


def _row(option: click.Option, context: click.Context) -> str:
    names = ", ".join(f"`{opt}`" for opt in option.opts)
    if not option.is_flag:
        names += f" `{_cell(option.make_metavar(context))}`"
    return f"| {names} | {_cell(' '.join((option.help or '').split()))} |\n"


def _summary(command: click.Command) -> str:
    """The first sentence of the help."""
    paragraph, *_ = re.split(r"\n\s*\n", (command.help or "").strip())
    return " ".join(paragraph.split()).partition(". ")[0].rstrip(".")


def _is_remote(command: click.Command) -> bool:
    return all(_has(command, option) for option in SERVER)


def _has(command: click.Command, option: str) -> bool:
    return any(option in param.opts for param in command.params)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
