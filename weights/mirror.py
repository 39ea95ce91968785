"""Weights from a mirror: a bucket in S3 or a compatible store.

    <prefix>/<owner>/<name>/<commit>/<path>
    <prefix>/<owner>/<name>/<commit>/darkroom-listing.json       written last

The listing there has the hub's digests, so a mirror works without the hub, and damage is detected.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from serve_app.domain.endpoint import StoreConfig
from serve_app.domain.errors import Misconfigured, WeightsUnavailable
from weights.folder import ListedFile, Listing
from weights.source import ByteRange, OnProgress

LISTING = "darkroom-listing.json"
SETTING = "DARKROOM_WEIGHTS_MIRROR"
CHUNK_BYTES = 2**20
CONNECT_S, ANSWER_S, TRIES = 5.0, 20.0, 4
ABSENT = ("NoSuchKey", "404", "NotFound")

_ADDRESS = re.compile(r"s3://([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?:/([\w./-]*))?")


def bucket_of(address: str) -> tuple[str, str]:
    """Bucket name and key prefix. ``Misconfigured`` if the address is invalid."""
    match = _ADDRESS.fullmatch(address)
    if match is None:
        raise Misconfigured(
            f"{SETTING} is {address!r}: set it to an address such as s3://bucket/prefix."
        )
    return match[1], (match[2] or "").strip("/")


class Mirror:
    """Client for the bucket ``config.mirror``. Credentials come from AWS's default chain, or from
    ``config.mirror_profile``. Without credentials, the bucket is read anonymously."""

    def __init__(self, config: StoreConfig) -> None:
        self._config = config
        self._client: Any = None
        self._bucket, self._prefix = bucket_of(config.mirror)

    def listing(self, repository: str, revision: str) -> Listing | None:
        """Listing of a commit. None if the mirror does not have it."""
        from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415

        key = self._key(repository, revision, LISTING)
        try:
            body = self._ensure_client().get_object(Bucket=self._bucket, Key=key)["Body"].read()
            return Listing.from_json(body)
        except ClientError as error:
            if error.response["Error"].get("Code") in ABSENT:
                return None
            raise self._error(repository, error) from error
        except (BotoCoreError, ValueError) as error:
            raise self._error(repository, error) from error

    def fetch(self, listing: Listing, file: ListedFile, part: ByteRange) -> None:
        """Implement ``Source.fetch``. One try: the client retries itself, and the hub is next."""
        if part.size > file.size:
            part.clear()
        if part.size == file.size:
            return
        from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415

        ask = {
            "Bucket": self._bucket,
            "Key": self._key(listing.repository, listing.revision, file.path),
            **({"Range": f"bytes={part.size}-"} if part.size else {}),
        }
        try:
            answer = self._ensure_client().get_object(**ask)
            if "Range" in ask and "ContentRange" not in answer:
                part.clear()  # the whole file is sent
            for chunk in answer["Body"].iter_chunks(CHUNK_BYTES):
                part.write(chunk)
        except (BotoCoreError, ClientError) as error:
            raise self._error(listing.repository, error) from error
        if part.size != file.size:
            raise WeightsUnavailable(
                f"The mirror sent {part.size} bytes of {file.path}, which has {file.size}."
            )

    def push(
        self,
        listing: Listing,
        files: Sequence[ListedFile],
        snapshot: Path,
        on_progress: OnProgress | None = None,
    ) -> int:
        """Upload those of ``files`` that the mirror lacks; returns the number of bytes sent."""
        from boto3.exceptions import Boto3Error  # noqa: PLC0415
        from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415

        done, sent, total = 0, 0, sum(listed.size for listed in files)
        client = self._ensure_client()
        try:
            for file in files:
                key = self._key(listing.repository, listing.revision, file.path)
                if not self._has(key, file):
                    metadata = {"Metadata": {"digest": file.digest}}
                    client.upload_file(
                        str(snapshot / file.path), self._bucket, key, ExtraArgs=metadata
                    )
                    sent += file.size
                done += file.size
                if on_progress is not None:
                    on_progress(done, total)
            # Lists all files, even those not uploaded: readers get them from the hub.
            client.put_object(
                Bucket=self._bucket,
                Key=self._key(listing.repository, listing.revision, LISTING),
                Body=listing.to_json().encode(),
                ContentType="application/json",
            )
        except (Boto3Error, BotoCoreError, ClientError) as error:
            raise self._error(listing.repository, error) from error
        return sent

    def _has(self, key: str, file: ListedFile) -> bool:
        from botocore.exceptions import ClientError  # noqa: PLC0415

        try:
            head = self._ensure_client().head_object(Bucket=self._bucket, Key=key)
        except ClientError as error:
            if error.response["Error"].get("Code") in ABSENT:
                return False
            raise
        same = head.get("Metadata", {}).get("digest") == file.digest
        return same and head["ContentLength"] == file.size

    def _key(self, repository: str, revision: str, path: str) -> str:
        return "/".join(part for part in (self._prefix, repository, revision, path) if part)

    def _ensure_client(self) -> Any:
        if self._client is None:
            self._client = self._make()
        return self._client

    def _make(self) -> Any:
        import boto3  # noqa: PLC0415  # only needed with a mirror
        from botocore import UNSIGNED  # noqa: PLC0415
        from botocore.config import Config  # noqa: PLC0415
        from botocore.exceptions import BotoCoreError  # noqa: PLC0415

        endpoint = self._config.mirror_endpoint_url or None
        try:
            session = boto3.Session(profile_name=self._config.mirror_profile or None)
            options: dict[str, Any] = {
                "connect_timeout": CONNECT_S,
                "read_timeout": ANSWER_S,
                "retries": {"total_max_attempts": TRIES, "mode": "standard"},
                "s3": {"addressing_style": "path" if endpoint else "auto"},
                # boto3's default checksums are trailers, which older stores write into the object.
                "request_checksum_calculation": "when_required",
                "response_checksum_validation": "when_required",
            }
            if session.get_credentials() is None:
                options["signature_version"] = UNSIGNED
            return session.client(
                "s3",
                endpoint_url=endpoint,
                region_name=session.region_name or "us-east-1",
                config=Config(**options),
            )
        except (BotoCoreError, ValueError) as error:
            raise Misconfigured(f"The mirror {self._config.mirror}: {error}") from error

    def _error(self, repository: str, error: Exception) -> WeightsUnavailable:
        return WeightsUnavailable(
            f"The mirror {self._config.mirror} does not provide or accept {repository}: {error}. "
            f"Check {SETTING}, its endpoint and its profile; credentials come from AWS's default "
            "chain."
        )
