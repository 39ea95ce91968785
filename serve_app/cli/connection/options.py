"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from serve_app.cli.connection.installation import Installation
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


def installation(command: Command) -> Command:
    """Add ``--data-dir``; the command gets it as ``installation``."""
    return data_dir(
        "installation", callback=lambda _context, _parameter, value: _installation(value)
    )(command)


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


def _installation(data_dir: Path | None) -> Installation:
    refuse_unknown()
    config = read_config({} if data_dir is None else {"data_dir": data_dir})
    return Installation(config.server.data_dir)


def _config(path: Path | None) -> Config:
    refuse_unknown()
    return read_config({} if path is None else read(path).arguments)
