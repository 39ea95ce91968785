"""Options that several commands share."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click

from serve_app.cli.connection.server import Server, chosen_server, local_installation
from serve_app.cli.connection.times import Duration, Time
from serve_app.domain.errors import Misconfigured
from serve_app.settings import Config, read_config, refuse_unknown
from serve_app.settings.config_file import read

Command = TypeVar("Command", bound=Callable[..., Any])


def data_dir(name: str, **more: Any) -> Callable[[Command], Command]:
    return click.option(
        "--data-dir",
        name,
        type=click.Path(path_type=Path),
        default=None,
        help="Data directory. Default: DARKROOM_DATA_DIR, or ~/.darkroom.",
        **more,
    )


SERVER = ("server_data_dir", "server_url", "server_key", "server_context")
"""Names of the parameters that choose a Darkroom. Commands have arguments like ``url`` too."""


def named_server(params: Mapping[str, Any]) -> Server:
    """Darkroom that the parameters of a command choose. Raises as ``chosen_server`` does, and
    ``Misconfigured`` if the command's group got another value of one."""
    context = click.get_current_context(silent=True)
    before = context.parent.params if context is not None and context.parent is not None else {}
    for name in SERVER:
        # One of two keys would go to the wrong server.
        if before.get(name) is not None and before[name] != params.get(name):
            option = f"--{name.removeprefix('server_').replace('_', '-')}"
            raise Misconfigured(
                f"{option} has one value before the subcommand and another one after it. Use it "
                "once."
            )
    return chosen_server(*(params.get(name) for name in SERVER))


def server(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that choose a Darkroom; the command gets it as ``server``."""

    @functools.wraps(command)
    def call(*args: Any, **params: Any) -> Any:
        chosen = named_server(params)
        own = {name: value for name, value in params.items() if name not in SERVER}
        return command(*args, server=chosen, **own)

    return server_options(call)


def server_options(command: Command) -> Command:
    """Add the options that choose a Darkroom, as the parameters ``SERVER``, without looking for
    it. For commands that may not need one."""
    for option in (
        click.option(
            "--context",
            "server_context",
            metavar="NAME",
            help="Context that `darkroom login` has saved.",
        ),
        click.option(
            "--key",
            "server_key",
            metavar="KEY",
            help="API key. Default with --url: DARKROOM_API_KEY.",
        ),
        click.option(
            "--url",
            "server_url",
            metavar="URL",
            help="Address of a Darkroom, in place of --data-dir.",
        ),
        data_dir("server_data_dir"),
    ):
        command = option(command)
    return command


def installation_settings(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--data-dir`` and ``--config``; the command gets the settings of the installation on
    this machine as ``config``."""

    @functools.wraps(command)
    def call(*args: Any, own_data_dir: Path | None, config_path: Path | None, **own: Any) -> Any:
        arguments = file_arguments(config_path)
        here = local_installation(own_data_dir or arguments.get("data_dir"))
        return command(*args, config=read_config(arguments | {"data_dir": here.data_dir}), **own)

    return data_dir("own_data_dir")(config_file("config_path")(call))


def config_of_data_dir(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--config`` and ``--data-dir``; the command gets the settings as ``config``. For
    commands that do not need a running Darkroom, whichever one the environment names."""

    @functools.wraps(command)
    def call(*args: Any, own_data_dir: Path | None, config_path: Path | None, **own: Any) -> Any:
        refuse_unknown()
        arguments = {} if config_path is None else read(config_path).arguments
        arguments |= {} if own_data_dir is None else {"data_dir": own_data_dir}
        return command(*args, config=read_config(arguments), **own)

    return data_dir("own_data_dir")(config_file("config_path")(call))


def file_arguments(path: Path | None) -> dict[str, Any]:
    """Settings of a Serve configuration file, with its address. Raises ``Misconfigured``."""
    if path is None:
        return {}
    file = read(path)
    address = {"host": file.host, "port": file.port}
    return file.arguments | {key: value for key, value in address.items() if value is not None}


def config_file(name: str, **more: Any) -> Callable[[Command], Command]:
    return click.option(
        "--config",
        name,
        type=click.Path(path_type=Path),
        default=None,
        help="Serve configuration file, as for `serve deploy`. Command-line options override it.",
        **more,
    )


def config(command: Command) -> Command:
    """Add ``--config``; the command gets the settings as ``config``. For commands that do not need
    a running Darkroom."""
    return config_file("config", callback=lambda _context, _parameter, value: _config(value))(
        command
    )


def as_json(command: Command) -> Command:
    return click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")(
        command
    )


def limit(most: int, default: int | None = None) -> Callable[[Command], Command]:
    """Add ``--limit`` to a command that lists."""
    return click.option(
        "--limit",
        type=click.IntRange(1, most),
        metavar="NUMBER",
        default=default,
        show_default=default is not None,
        help="Show at most this many.",
    )


before = click.option("--before", metavar="ID", help="Show those before this id (next page).")

TENANT = "Tenant that is meant. Default: the key's. Another one needs the scope operator."
tenant = click.option("--tenant", metavar="TENANT", help=TENANT)
tenant_or_all = click.option("--tenant", metavar="TENANT", help=f"{TENANT} *: all tenants.")

since = click.option("--since", type=Time(), help="Only from this time on, such as 2026-01-31.")
until = click.option("--until", type=Time(), help="Only before this time.")

expires_in = click.option(
    "--expires-in",
    "expires_in_s",
    type=Duration(),
    help="Time until it expires, such as 12h or 90d. Default: it does not expire.",
)

yes = click.option("-y", "--yes", is_flag=True, help="Do not ask for confirmation.")
force = click.option(
    "--force", is_flag=True, help="Also while requests are queued or running. Queued ones fail."
)
dry_run = click.option(
    "--dry-run", is_flag=True, help="Check it, and show what would be stored. Store nothing."
)


def _config(path: Path | None) -> Config:
    refuse_unknown()
    return read_config({} if path is None else read(path).arguments)
