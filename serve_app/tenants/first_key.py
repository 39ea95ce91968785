"""Creation of a new installation's first API key."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
from datetime import datetime
from pathlib import Path

from serve_app.domain.errors import Misconfigured, TenantDisabled, Unauthenticated
from serve_app.tenants.api_keys import DEFAULT_TENANT, ApiKey, Keys
from serve_app.tenants.credentials import Credential, new_credential, parse_setting
from serve_app.tenants.scopes import ADMIN, API, OPERATOR, expand_scopes

log = logging.getLogger(__name__)


async def ensure_first_key(
    keys: Keys, api_key: str | None, path: Path, now: datetime
) -> Credential | None:
    """Create the first key unless a key exists. Returns it if it was created, else None.

    ``api_key`` (``id:secret``, from the operator) is used if it is set, and added if it is not
    stored yet. Otherwise a random key is created. The key is written to ``path``, readable only by
    its owner, *before* it is stored: a crash between the two steps leaves a file that the next
    start replaces, never a stored key that no one knows. The caller holds a lock across ingress
    replicas.

    If ``api_key`` was revoked or has expired by ``now``, it stays so, and nothing is written.

    Raises ``Misconfigured`` if ``api_key`` is malformed or its id belongs to another key, if it has
    ended and no other key of an operator is valid, or if ``path`` cannot be written.
    """
    credential = parse_setting(api_key) if api_key else None
    if credential is None and await keys.any():
        return None
    if credential is not None and await _is_valid(keys, credential):
        await asyncio.to_thread(_write, path, str(credential))
        return None
    stored = await keys.find(credential.id) if credential else None
    if stored is not None:
        await _check_replaced(keys, stored, now)
        return None
    first = credential or new_credential()
    await asyncio.to_thread(_write, path, str(first))
    return await keys.create(
        DEFAULT_TENANT, name="first", scopes=frozenset({API, ADMIN}), credential=first
    )


async def _is_valid(keys: Keys, credential: Credential) -> bool:
    """Return True if ``credential`` is stored and valid."""
    try:
        await keys.authenticate(f"Key {credential}")
    except TenantDisabled:
        return True
    except Unauthenticated:
        return False
    return True


async def _check_replaced(keys: Keys, stored: ApiKey, now: datetime) -> None:
    """Log that DARKROOM_API_KEY is a key that was replaced. Raises ``Misconfigured`` if it was not:
    its secret is another, or no key is left that operates the installation."""
    if _valid(stored, now):
        raise Misconfigured(
            f"DARKROOM_API_KEY uses the id {stored.key_id}, but a key with this id is stored with "
            "another secret. Give it another id."
        )
    others = await keys.list(DEFAULT_TENANT)
    if not any(_valid(key, now) and OPERATOR in expand_scopes(key.scopes) for key in others):
        raise Misconfigured(
            f"DARKROOM_API_KEY uses the id {stored.key_id}, but the key with this id was revoked "
            "or has expired, and no other key operates this installation. Give it another id."
        )
    log.warning(
        "DARKROOM_API_KEY uses the id %s, but the key with this id was revoked or has expired. It "
        "stays so, and other keys work. Set DARKROOM_API_KEY to a valid key, or to a new "
        "id:secret, or remove it.",
        stored.key_id,
    )


def _valid(key: ApiKey, now: datetime) -> bool:
    return key.at(now).state == "valid"


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
