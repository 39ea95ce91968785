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

| convention | meaning |
| --- | --- |
| `--json` | Print JSON for programs. |
| `--data-dir PATH` | Use the installation with this data directory. Default: `DARKROOM_DATA_DIR`, or `~/.darkroom`. |
| `SERVER` | One of `--data-dir PATH`, `--url URL` and `--context NAME`, and `--key KEY`; see [another machine](../how-to/operate.md#from-another-machine). |
| `-h`, `--help` | Show the help of any command. |
{shared}
## Exit codes

| code | meaning |
| --- | --- |
| 0 | The command succeeded. |
| 1 | The command failed. A sentence on stderr says why and what to do. |
| 2 | The command line is wrong: an unknown command, option or value. |
| number of problems | `darkroom doctor` |
| number of damaged files | `darkroom models verify` |
| 2, 3, 4, 5 | `darkroom verify`: the file was changed (2), its signer is not known (3), it is not signed (4), an image that was drawn again differs (5). |
| 130 | Stopped by Ctrl-C. `darkroom generate` has cancelled its request; what `darkroom tune` has measured is kept. |
| 1 | `darkroom fsck`: a problem is left. |
| 1 | `darkroom migrate check`: something is refused or missing. |

## Commands

"""  # noqa: E501  one line a row

EXAMPLES = {
    "deploy": ("darkroom deploy greeter.py --name team/greeter",),
    "undeploy": ("darkroom undeploy team/greeter",),
    "serve": (
        "darkroom serve",
        "darkroom serve --config darkroom.yaml --port 9000",
        "darkroom serve --demo --sample",
        "darkroom serve --host 0.0.0.0 --link",
    ),
    "serve-config": ("darkroom serve-config darkroom.yaml > serve.yaml",),
    "env": ('eval "$(darkroom env)"', "darkroom env --shell fish"),
    "generate": (
        'darkroom generate "a red circle" -o circle.png --seed 7',
        'darkroom generate "a red circle" -o circle.png --draft 8',
        'darkroom generate "a red circle moves" -m fal-ai/wan/v2.2-5b/text-to-video -o circle.mp4',
        'darkroom generate "a siren" -m fal-ai/stable-audio -o siren.wav',
        'darkroom generate "a blue circle" --image circle.png --strength 0.6 -o blue.png',
        'darkroom generate "a red circle" --field guidance_scale=4 --preview preview.jpg',
        "echo a red circle | darkroom generate - -o - > circle.png",
    ),
    "inspect": ("darkroom inspect circle.png",),
    "verify": ("darkroom verify circle.png", "darkroom verify circle.png --replay"),
    "models": ("darkroom models", "darkroom models --all"),
    "models show": ("darkroom models show fal-ai/flux/schnell",),
    "models pull": ("darkroom models pull fal-ai/flux/schnell --yes",),
    "models add": (
        "darkroom models add house/sd3 --weights owner/name --dry-run",
        "darkroom models add house/x --weights /srv/weights/x --like fal-ai/flux/dev",
    ),
    "models delete": ("darkroom models delete house/sd3",),
    "models check": ("darkroom models check /etc/darkroom/models.yaml", "darkroom models check"),
    "models verify": ("darkroom models verify",),
    "models push-mirror": ("darkroom models push-mirror fal-ai/flux/schnell",),
    "tune": (
        "darkroom tune",
        "darkroom tune fal-ai/flux/dev --minutes 20",
        "darkroom tune --measured gpu/results.json",
        "darkroom tune --list",
    ),
    "requests list": (
        "darkroom requests list --state failed --since 2026-01-31",
        'darkroom requests list --tenant "*"',
    ),
    "requests show": ("darkroom requests show ID",),
    "requests cancel": (
        "darkroom requests cancel ID",
        "darkroom requests cancel ID --tenant studio-a",
    ),
    "requests delete": ("darkroom requests delete ID",),
    "requests priority": ("darkroom requests priority ID high",),
    "requests requeue": ("darkroom requests requeue ID",),
    "requests fail": ('darkroom requests fail ID --reason "Wrong model."',),
    "logs": ("darkroom logs ID --follow",),
    "open": ("darkroom open ID",),
    "keys create": (
        "darkroom keys create render-farm --expires-in 90d",
        "darkroom keys create ops --scope api --scope admin",
        "darkroom keys create thumbnails --scope submit --scope read --endpoint 'fal-ai/flux/*'",
    ),
    "keys link": (
        "darkroom keys link --expires-in 10m",
        "darkroom keys link --at https://gpu.example.org",
    ),
    "keys list": ("darkroom keys list --tenant studio-a",),
    "keys revoke": ("darkroom keys revoke KEY_ID",),
    "keys rotate": ("darkroom keys rotate KEY_ID --overlap 1h",),
    "tenants list": ("darkroom tenants list",),
    "tenants create": ("darkroom tenants create studio-a --name 'Studio A' --limit max_running=4",),
    "tenants show": ("darkroom tenants show studio-a",),
    "tenants set": ("darkroom tenants set studio-a --limit weight=2 --limit max_running=",),
    "tenants disable": ("darkroom tenants disable studio-a --cancel",),
    "tenants enable": ("darkroom tenants enable studio-a",),
    "tenants export": ("darkroom tenants export studio-a -o studio-a.zip",),
    "tenants delete": ("darkroom tenants delete studio-a --yes --wait",),
    "tenants deletion": ("darkroom tenants deletion studio-a",),
    "queue": ("darkroom queue",),
    "audit export": ("darkroom audit export -o audit.jsonl",),
    "audit verify": (
        "darkroom audit verify audit.jsonl",
        "darkroom audit verify --anchors /mnt/elsewhere/anchors",
    ),
    "endpoints pause": ("darkroom endpoints pause fal-ai/flux/dev",),
    "endpoints drain": ("darkroom endpoints drain fal-ai/flux/dev",),
    "endpoints resume": ("darkroom endpoints resume fal-ai/flux/dev",),
    "webhooks list": ("darkroom webhooks list --state dead",),
    "webhooks show": ("darkroom webhooks show ID",),
    "webhooks redeliver": ("darkroom webhooks redeliver ID",),
    "webhooks test": ("darkroom webhooks test http://127.0.0.1:9000/",),
    "webhooks secret": ("darkroom webhooks secret",),
    "webhooks rotate": ("darkroom webhooks rotate", "darkroom webhooks rotate --at-once"),
    "files sign": ("darkroom files sign URL --expires-in 7d",),
    "files revoke": ("darkroom files revoke SIGNED_URL", "darkroom files revoke URL --all"),
    "migrate check": ("darkroom migrate check src/", "darkroom migrate check fal-ai/flux/dev"),
    "batch run": ("darkroom batch run prompts.jsonl --endpoint fal-ai/flux/schnell -o results",),
    "batch list": ("darkroom batch list --limit 5",),
    "batch show": ("darkroom batch show batch_6903b93a9b6e385f8ea807ed3c8d9f51",),
    "batch cancel": ("darkroom batch cancel batch_6903b93a9b6e385f8ea807ed3c8d9f51",),
    "backup": ("darkroom backup /backups/monday",),
    "restore": ("darkroom restore /backups/monday --data-dir ~/restored",),
    "fsck": ("darkroom fsck", "darkroom fsck --mend", "darkroom fsck --checksums"),
    "storage lifecycle": (
        "darkroom storage lifecycle",
        "darkroom storage lifecycle --install",
    ),
    "usage": (
        "darkroom usage --by tenant --since 2026-01-01 --until 2026-02-01",
        "darkroom usage --by day --by key --csv > usage.csv",
    ),
    "usage report": ("darkroom usage report --since 2026-01-01",),
    "shadows": ("darkroom shadows acme/portraits --limit 5",),
    "audit": ("darkroom audit --limit 100",),
    "status": ("darkroom status", "darkroom status --url https://gpu.example.org"),
    "login": (
        "darkroom login https://gpu.example.org --name lab",
        "darkroom login https://10.0.0.5:8443 --ca-file ca.pem < key.txt",
    ),
    "logout": ("darkroom logout", "darkroom logout lab"),
    "contexts": ("darkroom contexts",),
    "contexts use": ("darkroom contexts use lab", "darkroom contexts use --local"),
    "top": ("darkroom top", "darkroom top --once"),
    "drain-node": ("darkroom drain-node", "darkroom drain-node --within 600"),
    "watch-spot": ("darkroom watch-spot", "darkroom watch-spot --cloud aws"),
    "weights add": ("darkroom weights add style style.safetensors --base fal-ai/flux/dev",),
    "weights list": ("darkroom weights list",),
    "weights publish": ("darkroom weights publish style --tenant studio-a",),
    "weights delete": ("darkroom weights delete style",),
    "jobs list": ("darkroom jobs list",),
    "jobs restart": ("darkroom jobs restart notice/evt_1",),
    "drafts show": ("darkroom drafts show 3q2-7wXJ0sVb1k9fLmZr5A",),
    "drafts list": ("darkroom drafts list --limit 20",),
    "drafts delete": ("darkroom drafts delete 3q2-7wXJ0sVb1k9fLmZr5A",),
    "shares list": ("darkroom shares list",),
    "shares delete": ("darkroom shares delete share_0123456789abcdef",),
    "workflows show": ("darkroom workflows show portrait",),
    "workflows list": ("darkroom workflows list --tenant studio-a",),
    "workflows delete": ("darkroom workflows delete portrait",),
    "secrets list": ("darkroom secrets list --installation",),
    "secrets delete": ("darkroom secrets delete FAL_KEY",),
    "secrets set": (
        "darkroom secrets set FAL_KEY --installation < key.txt",
        "darkroom secrets set FAL_KEY",
    ),
    "weights show": ("darkroom weights show style",),
    "warm set": ("darkroom warm set fal-ai/flux/dev --replicas 2 --for 30m",),
    "warm list": ("darkroom warm list",),
    "warm delete": ("darkroom warm delete fal-ai/flux/dev",),
    "completion": ('eval "$(darkroom completion bash)"',),
    "doctor": (
        "darkroom doctor",
        "darkroom doctor storage",
        "darkroom doctor storage --config darkroom.yaml",
    ),
}
"""Examples of every command. The tests parse them."""

SERVER = frozenset({"--context", "--data-dir", "--key", "--url"})
"""Options that choose a server, of commands that have all of them. A usage line says ``SERVER``."""

SHARED = {"--data-dir": "[--data-dir PATH]", "--json": "[--json]", "--help": ""}
"""Options of other commands that are documented once, and how a usage line shows them."""

LEAST_SHARERS = 4
"""Commands with the same option, by its text, from which on that is documented once."""


def page() -> str:
    """The whole page, in Markdown."""
    shared = _shared()
    rows = "".join(each.replace(" Default `20`.", "") for each in shared.values())
    head = HEAD.replace("{shared}\n", f"{rows}\n")
    return "".join([head, *(_section(*each, shared) for each in commands().items())])


def _shared() -> dict[tuple[str, str], str]:
    """Options of several commands by name and help, with their row."""
    found: dict[tuple[str, str], list[str]] = {}
    for name, command in commands().items():
        context = click.Context(command, info_name=f"{NAME} {name}")
        for each in command.params:
            is_known = {*SHARED, *SERVER}.intersection(each.opts)
            if isinstance(each, click.Option) and not each.hidden and not is_known:
                found.setdefault(_identity(each), []).append(_row(each, context))
    often = {key: rows[0] for key, rows in sorted(found.items()) if len(rows) >= LEAST_SHARERS}
    names = [name for name, _ in often]
    return {key: row for key, row in often.items() if names.count(key[0]) == 1}


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


def _section(name: str, command: click.Command, documented: Mapping[tuple[str, str], str]) -> str:
    context = click.Context(command, info_name=f"{NAME} {name}")
    remote = all(_has(command, each) for each in SERVER)
    once = SHARED.keys() | (SERVER if remote else set())
    shown = [each for each in sorted(SHARED) if _has(command, each)]
    shared = ["[SERVER]" if remote and each in SERVER else SHARED[each] for each in shown]
    pieces = [each for each in command.collect_usage_pieces(context) if each != "[OPTIONS]"]
    options = [
        each
        for each in command.params
        if isinstance(each, click.Option) and not each.hidden and not once.intersection(each.opts)
    ]
    common = [each for each in options if _identity(each) in documented]
    options = [each for each in options if each not in common]
    shared += [_usage(each, context) for each in common]
    usage = " ".join([NAME, name, *(["[OPTIONS]"] if options else []), *shared, *pieces])
    parts = [f"\n### {NAME} {name}\n\n```text\n{usage}\n```\n\n{_help(command)}\n"]
    if options:
        parts.append("\n| option | meaning |\n| --- | --- |\n")
        parts.extend(_row(each, context) for each in options)
    parts.append("\n```sh\n" + "\n".join(EXAMPLES[name]) + "\n```\n")
    return "".join(parts)


def _usage(option: click.Option, context: click.Context) -> str:
    value = "" if option.is_flag else f" {option.make_metavar(context)}"
    return f"[{option.opts[-1]}{value}]"


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
    if option.is_flag or option.multiple or callable(value):
        return ""
    if value is None or not isinstance(value, str | int | float):
        return ""
    return f"`{value}`"


def _help(command: click.Command) -> str:
    return re.sub(r"\n[ \t]+", "\n", (command.help or "").replace("\b\n", "")).strip()


def _has(command: click.Command, option: str) -> bool:
    return any(option in each.opts for each in command.params)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
