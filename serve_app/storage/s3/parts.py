"""Multipart uploads of clients to S3."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, BinaryIO

from botocore.exceptions import ClientError

from serve_app.domain.errors import InvalidInput, NotFound, StorageUnavailable, Unsupported
from serve_app.domain.upload import UploadPart
from serve_app.storage.blocking import in_thread, write_all
from serve_app.storage.keys import missing_part, upload_not_found
from serve_app.storage.s3 import errors
from serve_app.storage.s3.checksums import (
    Checksum,
    RunningChecksum,
    damaged_file_error,
    encode_digest,
)
from serve_app.storage.s3.clients import S3Clients
from serve_app.storage.s3.location import S3Location
from serve_app.storage.s3.transfer import check_encryption, encryption_parameters

log = logging.getLogger(__name__)

TOO_SMALL = "S3 accepts parts under 5 MiB only as the last part: send larger parts"
_PLAIN = re.compile(r"[0-9a-f]{32}")


class S3Parts:
    """Multipart uploads to S3.

    A part is collected in an unnamed file first, because S3 needs its size and MD5 before its
    bytes, and slow clients should not hold memory.
    """

    def __init__(self, clients: S3Clients, location: S3Location, spool: Path | None) -> None:
        """``spool``: folder of these files; None: the system's folder for temporary files."""
        self._clients = clients
        self._location = location
        self._checksum = Checksum(location)
        self._spool = spool

    async def begin(self, name: str, media_type: str) -> str:
        answer = await self._clients.call(
            "s3:PutObject",
            "create_multipart_upload",
            Key=name,
            ContentType=media_type,
            **encryption_parameters(self._location),
            **self._checksum.algorithm(),
        )
        parts_id = str(answer["UploadId"])
        try:
            check_encryption(self._location, answer)
        except StorageUnavailable:
            await self.drop(name, parts_id)
            raise
        return parts_id

    async def put(
        self, name: str, parts_id: str, number: int, chunks: AsyncIterator[bytes]
    ) -> UploadPart:
        spooled = await in_thread(_Spooled, self._spool, self._location)
        try:
            await write_all(chunks, spooled.write)
            spooled.file.seek(0)
            answer = await self._call_upload(
                "upload_part",
                Key=name,
                UploadId=parts_id,
                PartNumber=number,
                Body=spooled.file,
                ContentLength=spooled.size,
                **spooled.checksums(),
            )
            etag = str(answer["ETag"]).strip('"')
            if self._location.etag_is_md5 and _PLAIN.fullmatch(etag) and etag != spooled.md5.hex():
                raise damaged_file_error(self._location, "stored a part other than was sent")
            return UploadPart(number, etag, spooled.size)
        finally:
            spooled.file.close()

    async def join(self, name: str, parts_id: str, etags: Mapping[int, str]) -> None:
        known = await self._checksums(name, parts_id) if self._checksum else {}
        parts = [
            {"PartNumber": number, "ETag": f'"{etags[number]}"', **known.get(number, {})}
            for number in sorted(etags)
        ]
        await self._call_upload(
            "complete_multipart_upload",
            Key=name,
            UploadId=parts_id,
            MultipartUpload={"Parts": parts},
        )

    async def _checksums(self, name: str, parts_id: str) -> Mapping[int, dict[str, str]]:
        """Checksums of the parts, which S3 wants again at the end. Empty if it keeps none."""
        page: dict[str, Any] = {"Key": name, "UploadId": parts_id}
        checksums: dict[int, dict[str, str]] = {}
        while True:
            try:
                answer = await self._call_upload("list_parts", **page)
            except Unsupported:
                return {}
            for part in answer.get("Parts", ()):
                if self._checksum.value_in(part):
                    checksums[part["PartNumber"]] = self._checksum.parameter(part)
            if not answer.get("IsTruncated"):
                return checksums
            page["PartNumberMarker"] = answer["NextPartNumberMarker"]

    async def drop(self, name: str, parts_id: str) -> None:
        try:
            await self._call_upload("abort_multipart_upload", Key=name, UploadId=parts_id)
        except NotFound:
            pass
        except Unsupported as error:
            log.warning("The parts of an aborted upload remain in the bucket: %s", error.message)

    async def _call_upload(self, operation: str, **parameters: Any) -> Any:
        """Call about an existing upload. Raises ``NotFound``, ``InvalidInput``, ``Unsupported``."""
        method = getattr(self._clients.calls, operation)

        def call() -> Any:
            try:
                return method(Bucket=self._location.bucket, **parameters)
            except ClientError as error:
                match errors.code_of(error):
                    case "NoSuchUpload" | "NoSuchKey" | "404":
                        raise upload_not_found() from error
                    case "InvalidPart":
                        raise missing_part() from error
                    case "MethodNotAllowed" | "NotImplemented" | "501" | "405":
                        raise Unsupported(f"the store does not support {operation}") from error
                    case "EntityTooSmall":
                        raise InvalidInput.of_field("parts", TOO_SMALL) from error
                    case _:
                        raise

        return await self._clients.in_thread("s3:PutObject", call)


class _Spooled:
    """Unnamed temporary file of one part. Every method blocks."""

    def __init__(self, directory: Path | None, location: S3Location) -> None:
        if directory is not None:
            directory.mkdir(parents=True, exist_ok=True)
        self.file: BinaryIO = TemporaryFile(dir=directory)  # noqa: SIM115 closed by its owner
        self.size = 0
        self._digest = hashlib.md5(usedforsecurity=False)
        self._checksum = RunningChecksum(location)

    def write(self, data: bytes) -> None:
        self.file.write(data)
        self._digest.update(data)
        self._checksum.update(data)
        self.size += len(data)

    @property
    def md5(self) -> bytes:
        return self._digest.digest()

    def checksums(self) -> dict[str, str]:
        """Parameters for boto3 with the checksums of the part."""
        return {"ContentMD5": encode_digest(self.md5), **self._checksum.parameter()}
