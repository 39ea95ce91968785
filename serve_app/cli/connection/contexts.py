"""Saved contexts of the CLI: names for the addresses and keys of installations."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import click

from serve_app.cli.connection.remote import Remote
from serve_app.domain.errors import Misconfigured, NotFound
from serve_app.gateway import private_file


@dataclass(frozen=True, slots=True)
class Contexts:
    """Contents of the file. ``current`` is the name of the context in use; "" for none."""

    current: str = ""
    named: Mapping[str, Remote] = field(default_factory=dict[str, Remote])

    def of(self, name: str) -> Remote:
        """Context called ``name``. Raises ``NotFound`` with the names that exist."""
        if name not in self.named:
            names = ", ".join(sorted(self.named)) or "none"
            raise NotFound(
                f"There is no context `{name}`. Saved contexts: {names}. `darkroom login` adds one."
            )
        return self.named[name]

    def with_context(self, name: str, remote: Remote) -> Contexts:
        """These contexts with ``remote`` as ``name``, which becomes the current one."""
        return Contexts(name, {**self.named, name: remote})

    def with_current(self, name: str) -> Contexts:
        """These contexts with ``name`` as the current one; "" for none."""
        if name:
            self.of(name)
        return replace(self, current=name)

    def without(self, name: str) -> Contexts:
        """These contexts without ``name``. If it was the current one, there is none then."""
        self.of(name)
        kept = {key: remote for key, remote in self.named.items() if key != name}
        return Contexts("" if self.current == name else self.current, kept)


def contexts_file() -> Path:
    """File of this user. ``XDG_CONFIG_HOME`` moves it."""
    return Path(click.get_app_dir("darkroom")) / "contexts.json"


def read_contexts() -> Contexts:
    """Saved contexts. Raises ``Misconfigured`` with the file if it is damaged."""
    path = contexts_file()
    try:
        content = json.loads(path.read_text())
        named = {str(name): Remote(**fields) for name, fields in content["contexts"].items()}
        return Contexts(str(content["current"]), named)
    except FileNotFoundError:
        return Contexts()
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise Misconfigured(
            f"The saved contexts in {path} cannot be read ({error}). Correct the file, or delete "
            "it and log in again."
        ) from None


def write_contexts(contexts: Contexts) -> None:
    """Replace the file. Only its owner can read it, because it holds keys."""
    path = contexts_file()
    content = {
        "current": contexts.current,
        "contexts": {name: _fields(remote) for name, remote in contexts.named.items()},
    }
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        private_file.write(path, json.dumps(content, indent=1).encode(), secret=True)
    except OSError as error:
        raise Misconfigured(f"The context cannot be saved in {path}: {error}.") from None


def _fields(remote: Remote) -> dict[str, Any]:
    """A context as it is stored: a version from before sign-ins reads those without one."""
    fields: dict[str, Any] = asdict(remote)
    if not remote.signed_in:
        del fields["signed_in"]
    return fields
