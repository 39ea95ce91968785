"""Selection of the storage by the settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, TypeAlias

from serve_app.domain.errors import Misconfigured
from serve_app.domain.ports import Clock
from serve_app.settings import Config, Secrets
from serve_app.storage.directory import DirectoryStorage
from serve_app.storage.locations import (
    LocatedStorage,
    TenantLocation,
    own_credentials,
    read_locations,
)
from serve_app.storage.s3.location import S3Location, location_of

if TYPE_CHECKING:
    from serve_app.storage.s3.storage import S3Storage


AnyStorage: TypeAlias = "DirectoryStorage | S3Storage | LocatedStorage"


def create_storage(
    config: Config, secrets: Secrets, signing_key: bytes, internal_url: str, clock: Clock
) -> AnyStorage:
    """Create the storage, not started. Raises ``Misconfigured`` if settings contradict each other.

    ``signing_key`` and ``internal_url`` are for the tickets of the directory; see ``TicketSigner``.
    """
    own = own_storage(config, secrets, signing_key, internal_url, clock)
    locations = read_locations(config, s3_location(config, secrets))
    if not locations:
        return own
    opened = {id_: tenant_storage(config, secrets, location) for id_, location in locations.items()}
    return LocatedStorage(own, opened)


def location_ids(config: Config, secrets: Secrets) -> frozenset[str]:
    """Ids of the locations of tenants. Reads their file; raises ``Misconfigured``."""
    return frozenset(read_locations(config, s3_location(config, secrets)))


def file_places(config: Config, secrets: Secrets) -> Mapping[str, str]:
    """Places of the files in words, without secrets, by the id of a location of tenants; "": the
    installation's own. Equal for equal places. Reads the file of locations; raises
    ``Misconfigured``.
    """
    own = s3_location(config, secrets)
    if own is not None:
        place = own.place
    elif secrets.database_url is None:
        place = "the data directory"  # where its database lies too, so it may have been moved
    else:
        place = f"the directory {(config.server.data_dir / 'artifacts').resolve()}"
    locations = read_locations(config, own)
    return {"": place} | {id_: location.s3.place for id_, location in locations.items()}


def own_storage(
    config: Config, secrets: Secrets, signing_key: bytes, internal_url: str, clock: Clock
) -> DirectoryStorage | S3Storage:
    """Storage of the installation itself, as ``create_storage``."""
    location = s3_location(config, secrets)
    if location is None:
        # Without a limit of its own: each writer has one, and weights and backups have large files.
        return DirectoryStorage(
            config.server.data_dir / "artifacts", signing_key, internal_url, clock
        )
    return s3_storage(config, secrets, location)


def s3_location(config: Config, secrets: Secrets) -> S3Location | None:
    """S3 location from the settings; None if artifacts go to the directory.

    Raises ``Misconfigured`` also for incomplete or superfluous secrets.
    """
    location = location_of(config)
    key, secret = secrets.s3_access_key_id, secrets.s3_secret_access_key
    if (key is None) != (secret is None):
        present, missing = ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY")[:: 1 if key else -1]
        raise Misconfigured(
            f"DARKROOM_S3_{present} is set without DARKROOM_S3_{missing}. Set both, or neither to "
            "use AWS's own environment variables, files and roles."
        )
    if location is None and key is not None:
        raise Misconfigured(
            "DARKROOM_S3_ACCESS_KEY_ID is set, but no bucket: set DARKROOM_S3_BUCKET, or unset all "
            "S3 settings to keep the artifacts in the data directory."
        )
    return location


def s3_storage(config: Config, secrets: Secrets, location: S3Location) -> S3Storage:
    from serve_app.storage.s3.clients import StaticKey  # noqa: PLC0415
    from serve_app.storage.s3.storage import S3Storage  # noqa: PLC0415

    key, secret = secrets.s3_access_key_id, secrets.s3_secret_access_key
    static_key = (
        StaticKey(key.get_secret_value(), secret.get_secret_value()) if key and secret else None
    )
    return S3Storage(location, static_key, spool=config.server.data_dir / "spool")


def tenant_storage(config: Config, secrets: Secrets, location: TenantLocation) -> S3Storage:
    """Storage of a location of tenants, not started."""
    from serve_app.storage.s3.clients import StaticKey  # noqa: PLC0415
    from serve_app.storage.s3.storage import S3Storage  # noqa: PLC0415

    key, secret = location.access_key_id, location.secret_access_key
    if key is None:
        key, secret = own_credentials(secrets)
    static_key = StaticKey(key, secret.get_secret_value()) if key and secret else None
    return S3Storage(location.s3, static_key, spool=config.server.data_dir / "spool")
