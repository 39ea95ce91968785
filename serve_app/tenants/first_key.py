"""The key with which a new installation is first called."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
from pathlib import Path

from serve_app.domain.errors import Misconfigured, Unauthenticated
from serve_app.tenants.credential import Credential, new_credential, parse_given
from serve_app.tenants.keys import ADMIN, API, DEFAULT_TENANT, Keys


async def ensure_first_key(keys: Keys, given: str | None, path: Path) -> Credential | None:
    """Make the first key, unless there is one. Returns it if it was made.

    ``given`` (``id:secret``, from the operator) is used when set, and added when it is not known
    yet; else a random one is made. It is written to ``path``, readable by its owner only, *before*
    it is stored: a crash between the two leaves a file that the next start replaces, never a key
    that nobody knows. The caller holds a lock across ingress replicas.
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
    """Whether ``wanted`` is stored; ``Misconfigured`` when its id is, but it is not valid."""
    try:
        await keys.authenticate(f"Key {wanted}")
    except Unauthenticated:
        if all(info.id != wanted.id for info in await keys.list(DEFAULT_TENANT)):
            return False
        raise Misconfigured(
            f"DARKROOM_API_KEY has the id {wanted.id} of a key that was stored before with another "
            "secret, or revoked. Give it another id."
        ) from None
    return True


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
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
            f"The API key cannot be written to {path}: {error.strerror}."
        ) from error
