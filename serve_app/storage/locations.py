"""Storage locations of tenants: buckets beside the installation's storage, by a short id.

The file ``DARKROOM_STORAGE_LOCATIONS`` describes them. The key of an object contains the id of its
location, so a read finds its bucket without a look-up. Credentials stay in the processes of the
ingress and of the command line.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, ValidationError

from serve_app.domain.artifact import UploadTicket
from serve_app.domain.errors import DarkroomError, InvalidInput, Misconfigured, StorageUnavailable
from serve_app.domain.upload import UploadPart
from serve_app.options.mistakes import mistakes_text
from serve_app.paths import expand_home
from serve_app.periodic_task import PeriodicTask
from serve_app.settings import Config, Secrets
from serve_app.storage.directory import DirectoryStorage
from serve_app.storage.keys import LOCATION_ID, by_location, location_id
from serve_app.storage.listing import FOLDERS, StoredObject
from serve_app.storage.s3.location import (
    AssumedRole,
    S3Location,
    checked_bucket,
    checked_origin,
    checked_prefix,
    checked_region,
    either,
    encryption_of,
)
from serve_app.storage.s3.provider import ChecksumName, provider_of, region_in

if TYPE_CHECKING:
    from serve_app.storage.s3.storage import S3Storage

SETTING = "DARKROOM_STORAGE_LOCATIONS"
KEY_FILES = ("access_key_id", "secret_access_key")

AbsoluteFile = Annotated[Path, AfterValidator(expand_home)]


class LocationConfig(BaseModel):
    """Location in the file. What is left out is as in the installation's own S3 settings, if these
    name the same endpoint and bucket, and else by the provider."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    bucket: str | None = Field(default=None, description="Default: the installation's bucket.")
    prefix: str = ""
    endpoint_url: str | None = None
    region: str | None = None
    provider: Literal["aws", "minio", "r2", "gcs", "ceph", "b2", "swift", "other"] | None = None
    path_style: bool | None = None
    conditional_writes: bool | None = None
    checksum: ChecksumName | None = None
    encryption: Literal["AES256", "aws:kms"] | None = None
    kms_key_id: str | None = None
    access_key_id: str | None = None
    secret_access_key: SecretStr | None = None
    credentials_dir: AbsoluteFile | None = Field(
        default=None, description="Folder with the files `access_key_id` and `secret_access_key`."
    )
    role_arn: str | None = Field(default=None, pattern=r"^arn:[\w-]+:iam::\d{12}:role/.+$")
    external_id: str | None = Field(default=None, min_length=2, max_length=1224)
    role_session_s: int = Field(default=3600, ge=900, le=43200)
    sts_endpoint_url: str | None = None


@dataclass(frozen=True, slots=True)
class TenantLocation:
    """Location, and the credentials that open it. None: those of the installation."""

    s3: S3Location
    access_key_id: str | None = None
    secret_access_key: SecretStr | None = None


def read_locations(config: Config, own: S3Location | None) -> Mapping[str, TenantLocation]:
    """Locations of the file by id; empty without a file. ``own``: the installation's bucket.

    Raises ``Misconfigured`` with the location and the field that is wrong.
    """
    path = config.storage.storage_locations
    if path is None:
        return {}
    configs = {id_: _parse_location(id_, value) for id_, value in _mapping(path).items()}
    locations = {
        id_: _build_location(id_, location, own, config) for id_, location in configs.items()
    }
    for (first_id, first), (other, second) in combinations(locations.items(), 2):
        _refuse_same(other, second.s3, first.s3, first_id)
    for tenant, limits in config.queue.tenant_limits.items():
        if limits.storage is not None and limits.storage not in locations:
            raise Misconfigured(
                f"DARKROOM_TENANT_LIMITS: {tenant}.storage is {limits.storage!r}, which is not in "
                f"{path}. Add it there, or correct the name."
            )
    return locations


def check_known(location: str | None, known: Collection[str]) -> None:
    """Raise ``InvalidInput`` if a tenant is to have a location that does not exist."""
    if location is None or location in known:
        return
    there = ", ".join(sorted(known)) or "none"
    raise InvalidInput.of_field(
        "limits.storage",
        f"There is no storage location {location[:40]!r}. Those of {SETTING}: {there}",
    )


def _mapping(path: Path) -> dict[str, Any]:
    try:
        parsed: Any = yaml.safe_load(path.read_text())
    except OSError as error:
        raise Misconfigured(
            f"{SETTING} names {path}, which cannot be read ({error.strerror}). Every node of the "
            "ingress needs this file."
        ) from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # or it is not UTF-8
        where = getattr(error, "problem_mark", None)
        line = f" in line {where.line + 1}" if where is not None else ""
        raise Misconfigured(f"{path} is not valid YAML{line}. Correct it.") from None
    if parsed is None:
        return {}
    if not isinstance(parsed, dict):
        raise Misconfigured(f"{path} should be a mapping of ids to locations, such as `acme:`.")
    return parsed


def _parse_location(id_: object, value: object) -> LocationConfig:
    if not isinstance(id_, str) or LOCATION_ID.fullmatch(id_) is None:
        raise Misconfigured(
            f"{SETTING}: {id_!r} is not a valid id of a location. Use 2 to 32 lower-case letters, "
            "digits and hyphens, beginning with a letter. Ids are in the names of files and cannot "
            "change."
        )
    try:
        return LocationConfig.model_validate(value)
    except ValidationError as error:
        mistakes = mistakes_text(LocationConfig, error, id_)
        raise Misconfigured(f"{SETTING}: {mistakes}.") from None


def _build_location(
    id_: str, location: LocationConfig, own: S3Location | None, config: Config
) -> TenantLocation:
    bucket = location.bucket or (own.bucket if own is not None else None)
    if bucket is None:
        raise Misconfigured(f"{SETTING}: {id_}.bucket is missing, and DARKROOM_S3_BUCKET is unset.")
    setting = f"{SETTING}: {id_}.{{}}"
    endpoint_url = checked_origin(setting.format("endpoint_url"), location.endpoint_url)
    base = own if own is not None and endpoint_url in (None, own.endpoint_url) else None
    if base is not None:
        endpoint_url = base.endpoint_url
    provider = provider_of(location.provider, endpoint_url)
    if location.provider is None and base is not None:
        provider = base.provider
    if config.limits.max_artifact_bytes > provider.max_put_bytes:
        raise Misconfigured(
            f"{SETTING}: {id_} accepts at most {provider.max_put_bytes:,} bytes in one upload. Set "
            f"DARKROOM_MAX_ARTIFACT_BYTES to {provider.max_put_bytes} or less."
        )
    region = checked_region(setting.format("region"), location.region)
    s3 = S3Location(
        bucket=checked_bucket(setting.format("bucket"), bucket),
        prefix=checked_prefix(setting.format("prefix"), location.prefix),
        endpoint_url=endpoint_url,
        region=region or (base.region if base else region_in(provider, endpoint_url)),
        path_style=either(location.path_style, base.path_style if base else provider.path_style),
        conditional_writes=either(
            location.conditional_writes,
            base.conditional_writes if base else provider.conditional_writes,
        ),
        provider=provider,
        checksum=location.checksum or (base.checksum if base else provider.checksum),
        encryption=encryption_of(provider, location.encryption, location.kms_key_id, setting)
        or (base.encryption if base else None),
        role=_role(id_, location),
        location_id=id_,
    )
    if base is not None and s3.bucket == base.bucket:
        # Beside the installation's own files, whose folders have names of one letter.
        s3 = replace(s3, prefix=s3.prefix or f"{base.prefix}{id_}/")
        _refuse_same(id_, s3, base, "the installation's own storage")
    return TenantLocation(s3, *_credentials(id_, location))


def _refuse_same(id_: str, location: S3Location, other: S3Location, whose: str) -> None:
    place = (location.endpoint_url, location.bucket, location.prefix)
    if place == (other.endpoint_url, other.bucket, other.prefix):
        raise Misconfigured(
            f"{SETTING}: {id_} has the bucket and the prefix of {whose}. Set another {id_}.prefix: "
            "otherwise the files of both could not be told apart."
        )
    if place[:2] == (other.endpoint_url, other.bucket) and (
        _is_among_files(location.prefix, other.prefix)
        or _is_among_files(other.prefix, location.prefix)
    ):
        raise Misconfigured(
            f"{SETTING}: {id_} and {whose} have the same bucket, and the prefix of one lies in a "
            f"folder of the other's files. Set another {id_}.prefix: otherwise `darkroom fsck "
            "--mend` would delete them."
        )


def _is_among_files(prefix: str, others: str) -> bool:
    return prefix.startswith(tuple(f"{others}{folder}" for folder in FOLDERS))


def _role(id_: str, location: LocationConfig) -> AssumedRole | None:
    if location.role_arn is None:
        if location.external_id is not None:
            raise Misconfigured(f"{SETTING}: {id_}.external_id has no effect without role_arn.")
        return None
    sts = checked_origin(f"{SETTING}: {id_}.sts_endpoint_url", location.sts_endpoint_url)
    return AssumedRole(location.role_arn, location.external_id or "", location.role_session_s, sts)


def _credentials(id_: str, location: LocationConfig) -> tuple[str | None, SecretStr | None]:
    key, secret = location.access_key_id, location.secret_access_key
    if location.credentials_dir is not None:
        if key is not None or secret is not None:
            raise Misconfigured(
                f"{SETTING}: {id_} has both credentials_dir and access_key_id or "
                "secret_access_key. Remove one of them."
            )
        try:
            key, text = (
                (location.credentials_dir / name).read_text().strip() for name in KEY_FILES
            )
        except OSError as error:
            raise Misconfigured(
                f"{SETTING}: {id_}.credentials_dir: {error.filename} cannot be read "
                f"({error.strerror}). It needs the files {' and '.join(KEY_FILES)}."
            ) from error
        secret = SecretStr(text)
    if (key is None) != (secret is None):
        raise Misconfigured(
            f"{SETTING}: {id_} needs both access_key_id and secret_access_key, or neither."
        )
    return key, secret


def own_credentials(secrets: Secrets) -> tuple[str | None, SecretStr | None]:
    """Credentials of the installation's settings."""
    key = secrets.s3_access_key_id
    return (key.get_secret_value() if key else None), secrets.s3_secret_access_key


# Storage whose objects lie in the installation's own storage or in locations of tenants.

log = logging.getLogger(__name__)

TRY_AGAIN_S = 30.0
"""Interval of the attempts to open a location that could not be opened."""


class LocatedStorage:
    """Implementation of ``domain.ports.Storage`` that finds the storage of an object by its key.

    A location that cannot be opened fails only what concerns its own files, and is tried again. No
    file goes elsewhere instead.
    """

    def __init__(
        self, own: DirectoryStorage | S3Storage, locations: Mapping[str, S3Storage]
    ) -> None:
        self.own = own
        self.locations = locations
        self.tickets = own.tickets
        self._closed_for: dict[str, str] = dict.fromkeys(locations, "it was not opened yet")
        self._opening = PeriodicTask(
            TRY_AGAIN_S, {"open storage locations": self._open_closed}, first_after_s=TRY_AGAIN_S
        )

    async def start(self) -> None:
        """Open all. Raises ``DarkroomError`` only if the installation's own cannot be opened."""
        await self.own.start()
        await asyncio.gather(*map(self._open, self.locations))
        self._opening.start()

    async def aclose(self) -> None:
        await self._opening.aclose()
        await asyncio.gather(*(storage.aclose() for storage in self.locations.values()))
        await self.own.aclose()

    async def _open(self, id_: str) -> None:
        try:
            await self.locations[id_].start()
        except DarkroomError as error:
            if self._closed_for.get(id_) != error.message:
                log.warning("The storage location %s cannot be opened: %s", id_, error.message)
            self._closed_for[id_] = error.message
        else:
            self._closed_for.pop(id_, None)

    async def _open_closed(self) -> None:
        await asyncio.gather(*map(self._open, list(self._closed_for)))

    def _of(self, key: str) -> DirectoryStorage | S3Storage:
        id_ = location_id(key)
        if not id_:
            return self.own
        storage = self.locations.get(id_)
        if storage is None:
            raise StorageUnavailable(
                f"The storage location {id_} of this file is not in DARKROOM_STORAGE_LOCATIONS any "
                "more. The operator should add it again: its files are still there."
            )
        if id_ in self._closed_for:
            raise StorageUnavailable(
                f"The storage location {id_} cannot be used: {self._closed_for[id_]}"
            )
        return storage

    def ticket(self, key: str, media_type: str, max_bytes: int, valid_s: float) -> UploadTicket:
        return self._of(key).ticket(key, media_type, max_bytes, valid_s)

    def link(self, key: str, media_type: str, disposition: str, valid_s: float) -> str | None:
        return self._of(key).link(key, media_type, disposition, valid_s)

    async def put(self, key: str, media_type: str, chunks: AsyncIterator[bytes]) -> int:
        return await self._of(key).put(key, media_type, chunks)

    async def begin_parts(self, key: str, media_type: str) -> str:
        return await self._of(key).begin_parts(key, media_type)

    async def put_part(
        self, key: str, parts_id: str, number: int, chunks: AsyncIterator[bytes]
    ) -> UploadPart:
        return await self._of(key).put_part(key, parts_id, number, chunks)

    async def join_parts(self, key: str, parts_id: str, etags: Mapping[int, str]) -> int:
        return await self._of(key).join_parts(key, parts_id, etags)

    async def drop_parts(self, key: str, parts_id: str) -> None:
        await self._of(key).drop_parts(key, parts_id)

    async def size(self, key: str) -> int:
        return await self._of(key).size(key)

    async def head(self, key: str, most: int) -> tuple[int, bytes]:
        return await self._of(key).head(key, most)

    async def read(self, key: str, start: int, end: int) -> AsyncGenerator[bytes]:
        async with aclosing(self._of(key).read(key, start, end)) as chunks:
            async for chunk in chunks:
                yield chunk

    async def delete(self, keys: Sequence[str]) -> None:
        """Delete objects. If a location fails, those of the others are deleted all the same."""
        done = await asyncio.gather(*map(self._delete, by_location(keys)), return_exceptions=True)
        for failed in done:
            if isinstance(failed, BaseException):
                raise failed

    async def _delete(self, keys: Sequence[str]) -> None:
        await self._of(keys[0]).delete(keys)

    async def files(self) -> AsyncIterator[StoredObject]:
        """All objects of all locations, in the byte order of their keys.

        Raises ``StorageUnavailable`` if one of them cannot be listed: its files would be missing.
        """
        for id_, reason in self._closed_for.items():
            raise StorageUnavailable(f"The storage location {id_} cannot be listed: {reason}")
        listings = [storage.files() for storage in (self.own, *self.locations.values())]
        heads = [(await anext(listing, None), listing) for listing in listings]
        while remaining := [(head, listing) for head, listing in heads if head is not None]:
            least, listing = min(remaining, key=lambda pair: pair[0].key)
            yield least
            heads = [
                (await anext(source, None) if source is listing else head, source)
                for head, source in remaining
            ]

    async def check(self) -> None:
        """Check the installation's own storage: a tenant's bucket must not stop the others."""
        await self.own.check()
