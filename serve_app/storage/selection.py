"""Which storage the settings ask for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from serve_app.domain.errors import Misconfigured
from serve_app.domain.ports import Clock
from serve_app.settings import Config, Secrets
from serve_app.storage.directory import DirectoryStorage
from serve_app.storage.s3.location import S3Location, location_of

if TYPE_CHECKING:  # they import boto3, which takes a while and memory
    from serve_app.storage.s3.storage import S3Storage


def chosen(
    config: Config, secrets: Secrets, signing_key: bytes, internal_url: str, clock: Clock
) -> DirectoryStorage | S3Storage:
    """Not started. ``Misconfigured`` when settings contradict each other.

    ``signing_key`` and ``internal_url`` are for tickets of the directory: see ``TicketSigner``.
    """
    location = s3_location(config, secrets)
    if location is None:
        return DirectoryStorage(
            config.data_dir / "artifacts",
            signing_key,
            internal_url,
            clock,
            _largest(config),
        )
    return s3_storage(config, secrets, location)


def s3_location(config: Config, secrets: Secrets) -> S3Location | None:
    """None for the directory. ``Misconfigured`` also for secrets that make no sense."""
    location = location_of(config)
    key, secret = secrets.s3_access_key_id, secrets.s3_secret_access_key
    if (key is None) != (secret is None):
        given, missing = ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY")[:: 1 if key else -1]
        raise Misconfigured(
            f"DARKROOM_S3_{given} is set without DARKROOM_S3_{missing}: set both, or neither to go "
            "by AWS's own environment, files and roles."
        )
    if location is None and key is not None:
        raise Misconfigured(
            "DARKROOM_S3_ACCESS_KEY_ID is set, but no bucket: set DARKROOM_S3_BUCKET, or leave all "
            "of S3 out to keep the artifacts in the data directory."
        )
    return location


def s3_storage(config: Config, secrets: Secrets, location: S3Location) -> S3Storage:
    from serve_app.storage.s3.clients import StaticKey  # noqa: PLC0415
    from serve_app.storage.s3.storage import S3Storage  # noqa: PLC0415

    key, secret = secrets.s3_access_key_id, secrets.s3_secret_access_key
    given = StaticKey(key.get_secret_value(), secret.get_secret_value()) if key and secret else None
    return S3Storage(location, given, _largest(config), config.data_dir / "spool")


def _largest(config: Config) -> int:
    """What the storage takes; tickets and uploads have limits of their own below it."""
    return max(config.max_artifact_bytes, config.max_upload_bytes)
