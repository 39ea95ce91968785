"""Creation of a new installation's first API key."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
from pathlib import Path

from serve_app.domain.errors import Misconfigured, Unauthenticated
from serve_app.tenants.api_keys import DEFAULT_TENANT, Keys
from serve_app.tenants.credentials import Credential, new_credential, parse_given
from serve_app.tenants.scopes import ADMIN, API


async def ensure_first_key(keys: Keys, given: str | None, path: Path) -> Credential | None:
    """Create the first key unless a key exists. Returns it if it was created, else None.

    ``given`` (``id:secret``, from the operator) is used if it is set, and added if it is not stored
    yet. Otherwise a random key is created. The key is written to ``path``, readable only by its
    owner, *before* it is stored: a crash between the two steps leaves a file that the next start
    replaces, never a stored key that no one knows. The caller holds a lock across ingress replicas.

    Raises ``Misconfigured`` if ``given`` is malformed or its id belongs to another key, or if
    ``path`` cannot be written.
    """
    wanted = parse_given(given) if given else None
    if wanted is None and await keys.any():
        return None
    if wanted is not None and await _known(keys, wanted):
        await asyncio.to_thread(_write, path, str(wanted))
        return None
    first = wanted or new_credential()
    await asyncio.to_thread(_write, path, str(first))
    return await keys.create(
        DEFAULT_TENANT, name="first", scopes=frozenset({API, ADMIN}), credential=first
    )


async def _known(keys: Keys, wanted: Credential) -> bool:
    """Return True if ``wanted`` is stored. Raises ``Misconfigured`` if its id is stored with
    another secret or is revoked."""
    try:
        await keys.authenticate(f"Key {wanted}")
    except Unauthenticated:
        if all(info.id != wanted.id for info in await keys.list(DEFAULT_TENANT)):
            return False
        raise Misconfigured(
            f"DARKROOM_API_KEY uses the id {wanted.id}, but a key with this id is stored with "
            "another secret, or was revoked. Give it another id."
        ) from None
    return True


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(text + "\n")
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise Misconfigured(
            f"The API key cannot be written to {path}: {error.strerror}. Check that the directory "
            "is writable and has free space."
        ) from error
