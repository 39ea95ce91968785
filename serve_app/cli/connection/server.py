"""The Darkroom that a command calls: one on this machine, an address, or a saved context."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from serve_app.cli.connection.contexts import read_contexts
from serve_app.cli.connection.installation import Installation
from serve_app.cli.connection.remote import Remote, origin
from serve_app.domain.errors import Misconfigured
from serve_app.settings import ClientSettings, Config, Secrets, read_config, refuse_unknown

Server = Installation | Remote


def chosen_server(
    data_dir: Path | None = None,
    url: str | None = None,
    key: str | None = None,
    context: str | None = None,
) -> Server:
    """Server that the options and variables name, the first of these:

    ``--url``, ``--context``, ``--data-dir``, ``DARKROOM_URL``, ``DARKROOM_CONTEXT``,
    ``DARKROOM_DATA_DIR``, the current context, and the default data directory.

    Raises ``Misconfigured`` if two options contradict each other, or if an address has no key, and
    ``NotFound`` for a context that does not exist.
    """
    refuse_unknown()
    if sum(option is not None for option in (data_dir, url, context)) > 1:
        raise Misconfigured(
            "--url, --context and --data-dir each name a server. Use one of them only."
        )
    if data_dir is None and url is None and context is None:
        settings = ClientSettings()
        url = settings.url
        context = settings.context if url is None else None
    if url is not None:
        return _at(url, key)
    if context is None and data_dir is None and not _names_data_dir():
        context = read_contexts().current or None
    if context is None:
        return _local(data_dir, key)
    saved = read_contexts().of(context)
    return saved if key is None else replace(saved, secret=key)


def local_installation(data_dir: Path | None) -> Installation:
    """Installation on this machine, for commands that open its files themselves.

    Raises ``Misconfigured`` if the environment or the current context names a server, because the
    command would work on another one.
    """
    return here(chosen_server(data_dir))


def here(server: Server) -> Installation:
    """``server`` if it is an installation on this machine. Raises ``Misconfigured`` otherwise."""
    if isinstance(server, Installation):
        return server
    raise Misconfigured(
        f"This command works on the machine of the installation, not through {server.address}. "
        "Run it there, or name a data directory of this machine with --data-dir."
    )


def config_of(server: Server) -> Config:
    """Settings of this machine, with the data directory of ``server`` if it is here."""
    return _config(server.data_dir if isinstance(server, Installation) else None)


def _at(url: str, key: str | None) -> Remote:
    address = origin(url)
    own = Secrets().api_key
    secret = key or (own.get_secret_value() if own else None)
    saved = [remote for remote in read_contexts().named.values() if remote.address == address]
    if secret is not None:
        return replace(saved[0], secret=secret) if saved else Remote(address, secret)
    if not saved:
        raise Misconfigured(
            f"There is no API key for {address}. Use --key or DARKROOM_API_KEY, or save one with "
            f"`darkroom login {address}`."
        )
    return saved[0]


def _local(data_dir: Path | None, key: str | None) -> Server:
    return Installation(_config(data_dir).server.data_dir, key)


def _config(data_dir: Path | None) -> Config:
    return read_config({} if data_dir is None else {"data_dir": data_dir})


def _names_data_dir() -> bool:
    return "data_dir" in _config(None).server.model_fields_set
