"""Sentences on names that no command and no option has: what was probably meant.

People come from other tools, whose words for the same things they try first.
"""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches

import click

MEANT: Mapping[str, str] = {
    # docker, kubectl
    "ps": "`darkroom top` for what runs, `darkroom queue` for what waits",
    "run": "`darkroom generate`",
    "exec": "`darkroom generate`",
    "images": "`darkroom models`",
    "pull": "`darkroom models pull`",
    "push": "`darkroom deploy`",
    "build": "`darkroom deploy`",
    "apply": "`darkroom deploy`",
    "up": "`darkroom serve`",
    "down": "Ctrl-C where `darkroom serve` runs",
    "start": "`darkroom serve`, or `darkroom endpoints resume ENDPOINT`",
    "stop": "Ctrl-C where `darkroom serve` runs, or `darkroom endpoints pause ENDPOINT`",
    "restart": "Ctrl-C where `darkroom serve` runs, and then `darkroom serve`",
    "kill": "`darkroom requests cancel ID`",
    "rm": "`darkroom models delete ENDPOINT`, or `darkroom undeploy NAME`",
    "rmi": "`darkroom models delete ENDPOINT`",
    "events": "`darkroom top`, or `darkroom audit`",
    "stats": "`darkroom top`",
    "info": "`darkroom status`, or `darkroom doctor`",
    "version": "`darkroom --version`",
    "help": "`darkroom --help`",
    "get": "`darkroom status`, `darkroom models` or `darkroom requests list`",
    "describe": "`darkroom requests show ID`, or `darkroom status`",
    "scale": "`darkroom warm set ENDPOINT --replicas N`",
    "cordon": "`darkroom drain-node`, or `darkroom endpoints pause ENDPOINT`",
    "drain": "`darkroom drain-node`, or `darkroom endpoints drain ENDPOINT`",
    "rollout": "`darkroom deploy`",
    "context": "`darkroom contexts`",
    "use": "`darkroom contexts use NAME`",
    "config": "`darkroom env`, `darkroom contexts` or `darkroom doctor`",
    # ollama
    "list": "`darkroom models`",
    "ls": "`darkroom models`",
    "show": "`darkroom models show ENDPOINT`, or `darkroom requests show ID`",
    "create": "`darkroom models add`, or `darkroom deploy`",
    "cp": "`darkroom models add ENDPOINT --like OTHER`",
    # fal, replicate, cog
    "auth": "`darkroom login`, or `darkroom keys`",
    "signin": "`darkroom login --sign-in`",
    "whoami": "`darkroom contexts`",
    "account": "`darkroom usage`",
    "apps": "`darkroom models`",
    "app": "`darkroom deploy`, or `darkroom models`",
    "runners": "`darkroom top`",
    "predict": "`darkroom generate`",
    "image": "`darkroom generate`",
    "history": "`darkroom requests list`",
    "prediction": "`darkroom requests`",
    "predictions": "`darkroom requests`",
    "submit": "`darkroom generate`, or `darkroom batch run FILE`",
    "cancel": "`darkroom requests cancel ID`",
    "train": "`darkroom weights add`, for weights that were trained elsewhere",
    "trainings": "`darkroom weights`, for weights that were trained elsewhere",
    "hardware": "`darkroom top`, or `darkroom doctor`",
    "init": "`darkroom serve`",
    "download": "`darkroom models pull`",
    "lora": "`darkroom weights`",
    "loras": "`darkroom weights`",
    "upload": "`darkroom weights add`",
    # commands of our groups, and other words
    "pause": "`darkroom endpoints pause ENDPOINT`",
    "resume": "`darkroom endpoints resume ENDPOINT`",
    "cost": "`darkroom usage`",
    "costs": "`darkroom usage`",
    "billing": "`darkroom usage`",
    "users": "`darkroom tenants`, or `darkroom keys`",
    "check": "`darkroom doctor`, or `darkroom models check`",
    "health": "`darkroom status`, or `darkroom doctor`",
    "ping": "`darkroom status`",
    "export": "`darkroom tenants export TENANT`",
    "upgrade": "`pip install --upgrade darkroom-serve`",
    "update": "`pip install --upgrade darkroom-serve`",
}
"""Name in another tool → what to use here."""

SAME: tuple[tuple[str, ...], ...] = (
    ("list", "ls", "all", "ps"),
    ("create", "add", "set", "run", "sign", "new", "make", "register", "submit"),
    ("delete", "revoke", "cancel", "rm", "remove", "del", "destroy", "unset"),
    ("show", "list", "get", "describe", "info", "inspect", "view", "status"),
    ("set", "rotate", "update", "edit", "change", "renew"),
    ("pull", "download", "fetch"),
    ("push-mirror", "add", "push", "upload"),
    ("redeliver", "requeue", "restart", "retry", "rerun"),
    ("publish", "sign", "share", "link"),
    ("use", "switch", "select"),
    ("cancel", "pause", "stop", "kill", "abort"),
    ("resume", "enable", "start", "unpause"),
)
"""Words for the same in groups of commands. The first that a group has is meant."""


def advice(group: click.Group, ctx: click.Context, name: str) -> str:
    """Sentences on ``name``, which ``group`` does not have."""
    path, word = ctx.command_path, name.lower()
    lacking = f"There is no command `{path} {name}`."
    if ctx.parent is None and word in MEANT:
        return f"{lacking} Use {MEANT[word]}."
    if like := _similar(group, ctx, word):
        return f"{lacking} Did you mean `{like}`?"
    return f"{lacking} `{path} --help` lists the commands."


def _similar(group: click.Group, ctx: click.Context, word: str) -> str | None:
    """Command that says the same by another word, or is spelled alike; None without one."""
    names = group.list_commands(ctx)
    same = [synonym for words in SAME if word in words for synonym in words]
    if group.invoke_without_command and "list" in same:
        return ctx.command_path  # which lists
    matches = (
        [synonym for synonym in same if synonym in names]
        or [name for name in names if name.startswith(word)]
        or get_close_matches(word, names, n=1)
    )
    return f"{ctx.command_path} {matches[0]}" if matches else None


def option_advice(error: click.NoSuchOption) -> str:
    """Sentences on an option that a command does not have."""
    path = "darkroom" if error.ctx is None else error.ctx.command_path
    lacking = f"`{path}` has no option `{error.option_name}`."
    if error.possibilities:
        return f"{lacking} Did you mean `{error.possibilities[0]}`?"
    return f"{lacking} `{path} --help` lists the options."
