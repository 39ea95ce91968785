"""Uploads in parts: S3's own."""

from __future__ import annotations

import base64
import hashlib
import logging
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, BinaryIO

from botocore.exceptions import ClientError

from serve_app.domain.errors import InvalidInput, NotFound, Unsupported
from serve_app.domain.upload import Part
from serve_app.storage.blocking import in_thread, write_all
from serve_app.storage.parts import missing_part, no_parts
from serve_app.storage.s3 import troubles
from serve_app.storage.s3.clients import S3Clients

log = logging.getLogger(__name__)

TOO_SMALL = "S3 takes no part of less than 5 MiB but the last: send larger ones"


class S3Parts:
    """A part waits in a file without a name until all of it has come: S3 wants to know its size and
    its MD5 first, and ten clients that send slowly should not take memory for it."""

    def __init__(self, clients: S3Clients, bucket: str, spool: Path | None) -> None:
        """``spool``: where; None: where the system keeps temporary files."""
        self._clients = clients
        self._bucket = bucket
        self._spool = spool

    async def begin(self, name: str, media_type: str) -> str:
        answer = await self._clients.call(
            "s3:PutObject", "create_multipart_upload", Key=name, ContentType=media_type
        )
        return str(answer["UploadId"])

    async def put(
        self, name: str, parts_id: str, number: int, chunks: AsyncIterator[bytes]
    ) -> Part:
        spooled = await in_thread(_Spooled, self._spool)
        try:
            await write_all(chunks, spooled.write)
            spooled.file.seek(0)
            answer = await self._known(
                "upload_part",
                Key=name,
                UploadId=parts_id,
                PartNumber=number,
                Body=spooled.file,
                ContentLength=spooled.size,
                ContentMD5=spooled.md5,
            )
            return Part(number, str(answer["ETag"]).strip('"'), spooled.size)
        finally:
            spooled.file.close()

    async def join(self, name: str, parts_id: str, etags: Mapping[int, str]) -> None:
        parts = [{"PartNumber": number, "ETag": f'"{etags[number]}"'} for number in sorted(etags)]
        await self._known(
            "complete_multipart_upload",
            Key=name,
            UploadId=parts_id,
            MultipartUpload={"Parts": parts},
        )

    async def drop(self, name: str, parts_id: str) -> None:
        try:
            await self._known("abort_multipart_upload", Key=name, UploadId=parts_id)
        except NotFound:
            pass
        except Unsupported as error:
            log.warning("The parts of a broken upload stay in the bucket: %s", error.message)

    async def _known(self, operation: str, **parameters: Any) -> Any:
        """A call about an upload that should be there."""
        method = getattr(self._clients.calls, operation)

        def call() -> Any:
            try:
                return method(Bucket=self._bucket, **parameters)
            except ClientError as error:
                match troubles.code_of(error):
                    case "NoSuchUpload" | "NoSuchKey" | "404":
                        raise no_parts() from error
                    case "InvalidPart":
                        raise missing_part() from error
                    case "MethodNotAllowed" | "NotImplemented" | "501" | "405":
                        raise Unsupported(f"the store does not know {operation}") from error
                    case "EntityTooSmall":
                        raise InvalidInput.of_field("parts", TOO_SMALL) from error
                    case _:
                        raise

        return await self._clients.in_thread("s3:PutObject", call)


class _Spooled:
    """Every method blocks."""

    def __init__(self, directory: Path | None) -> None:
        if directory is not None:
            directory.mkdir(parents=True, exist_ok=True)
        self.file: BinaryIO = TemporaryFile(dir=directory)  # noqa: SIM115 closed by its owner
        self.size = 0
        self._digest = hashlib.md5(usedforsecurity=False)

    def write(self, data: bytes) -> None:
        self.file.write(data)
        self._digest.update(data)
        self.size += len(data)

    @property
    def md5(self) -> str:
        return base64.b64encode(self._digest.digest()).decode()
