"""Self-test of S3: the steps of any storage, multipart uploads and presigned URLs."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from functools import cached_property
from typing import Any
from urllib.parse import urlsplit

import httpx2
from botocore.exceptions import ClientError

from serve_app.domain.artifact import UploadTicket
from serve_app.domain.errors import DarkroomError, StorageUnavailable
from serve_app.storage.s3 import errors
from serve_app.storage.s3.lifecycle import missing_rules, present_rules, wanted_rules
from serve_app.storage.s3.location import ENCRYPTION_HEADER
from serve_app.storage.s3.storage import S3Storage
from serve_app.storage.s3.transfer import PART_BYTES, not_encrypted
from serve_app.storage.self_test import MEDIA_TYPE, SelfTest, SelfTestStep, fresh_key, read_all

PATIENCE_S = 10.0
URL_VALID_S = 120.0

_CODE = re.compile(r"<Code>([^<]+)</Code>")
_MESSAGE = re.compile(r"<Message>([^<]*)</Message>")


class S3SelfTest(SelfTest):
    """Self-test of an S3 storage. Presigned URLs are tested with a plain HTTP client, like those of
    replicas and clients."""

    def __init__(self, storage: S3Storage) -> None:
        super().__init__(storage)
        self.s3 = storage

    def steps(self) -> list[SelfTestStep]:
        return [
            SelfTestStep("bucket", self.bucket, needed=True),
            *super().steps(),
            SelfTestStep("multipart", self.multipart),
            SelfTestStep("presigned put", self.presigned_put),
            SelfTestStep("presigned get", self.presigned_get),
            SelfTestStep("presigned delete", self.presigned_delete),
            SelfTestStep("lifecycle", self.lifecycle),
        ]

    @cached_property
    def ticket(self) -> UploadTicket:
        return self.s3.ticket(fresh_key(), MEDIA_TYPE, len(self.content), URL_VALID_S)

    async def bucket(self) -> str:
        # A PUT comes first: the response to a HEAD has no body with the reason of a refusal.
        await self.s3.check()
        region = await self.s3.bucket_region()
        return self.s3.location.description + (f", region {region}" if region else "")

    async def multipart(self) -> str:
        key, size = fresh_key(), PART_BYTES + 1000

        async def parts() -> AsyncIterator[bytes]:
            yield bytes(PART_BYTES)
            yield self.content

        try:
            await self.storage.put(key, MEDIA_TYPE, parts())
            self._compare(await read_all(self.storage, key, PART_BYTES, size), self.content)
        finally:
            await self.storage.delete([key])
        return f"stored {size} bytes in two parts"

    async def presigned_put(self) -> str:
        answer = await self._call("PUT", self.ticket.url, content=self.content)
        there = await read_all(self.storage, self.ticket.key, 0, len(self.content))
        self._compare(there, self.content)
        if self.s3.location.encryption is not None:
            sent = answer.headers.get(ENCRYPTION_HEADER)
            if sent != self.s3.location.encryption.method:
                raise not_encrypted(self.s3.location)
        can = f"replicas can upload{self._encryption_text()} to {_origin(self.ticket.url)}"
        if not self.s3.location.conditional_writes:
            return f"{can}, and can overwrite until their ticket expires"
        try:
            await self._call("PUT", self.ticket.url, content=self.content)
        except StorageUnavailable as error:
            if error.__cause__ is not None and errors.is_conflict(error.__cause__):
                return f"{can}, once per ticket"
            raise
        return f"{can}; the store ignores If-None-Match, so they can overwrite"

    def _encryption_text(self) -> str:
        encryption = self.s3.location.encryption
        return "" if encryption is None else f", encrypted by {encryption.method},"

    async def presigned_get(self) -> str:
        url = self.s3.presigned_get(self.key, "image/png", "inline", URL_VALID_S)
        answer = await self._call("GET", url)
        self._compare(answer.content, self.content)
        if answer.headers.get("content-type") != "image/png":
            raise StorageUnavailable(
                "The store ignores the content type that a presigned URL requests. Set "
                "DARKROOM_S3_DOWNLOADS=through."
            )
        sent = "clients are sent to" if self.s3.location.redirect else "works at"
        return f"{sent} {_origin(url)}"

    async def presigned_delete(self) -> str:
        try:
            await self._call("DELETE", self.ticket.delete_url or self.ticket.url)
        finally:
            await self.storage.delete([self.ticket.key])
        return "replicas can delete what they uploaded"

    async def lifecycle(self) -> str:
        """Lifecycle rules are a backstop only, so what is missing is no problem."""
        location = self.s3.location
        if not location.provider.lifecycle:
            return f"{location.provider.name} has rules of its own: set them in its console"
        try:
            present = await present_rules(self.s3)
        except DarkroomError as error:
            return f"the rules of the bucket cannot be read: {error.message}"
        missing = missing_rules(wanted_rules(location), present)
        if not missing:
            return "the bucket aborts abandoned uploads and deletes leftovers of checks"
        return f"no {', '.join(missing)}: `darkroom storage lifecycle --install` adds them"

    async def _call(self, method: str, url: str, content: bytes | None = None) -> httpx2.Response:
        headers = dict(self.ticket.headers) if method == "PUT" else {}
        try:
            async with httpx2.AsyncClient(trust_env=False, timeout=PATIENCE_S) as client:
                answer = await client.request(method, url, headers=headers, content=content)
        except httpx2.HTTPError as error:
            raise StorageUnavailable(self._unreachable_message(method, url, error)) from error
        if not answer.is_success:
            refusal = _as_client_error(answer, method)
            action = {"PUT": "s3:PutObject", "GET": "s3:GetObject"}.get(method, "s3:DeleteObject")
            raise errors.explain(refusal, self.s3.location, action) from refusal
        return answer

    def _unreachable_message(self, method: str, url: str, error: httpx2.HTTPError) -> str:
        who, setting = ("Replicas upload", "DARKROOM_S3_ENDPOINT_URL")
        if method == "GET" and self.s3.location.public_endpoint_url:
            who, setting = ("Clients are sent", "DARKROOM_S3_PUBLIC_ENDPOINT_URL")
        return (
            f"{_origin(url)} cannot be reached from this machine ({type(error).__name__}). {who} "
            f"there. Correct {setting}, or check the network."
        )


def _as_client_error(answer: httpx2.Response, method: str) -> ClientError:
    """Error that boto3 would raise for this response."""
    code, message = _CODE.search(answer.text), _MESSAGE.search(answer.text)
    response: Any = {
        "Error": {
            "Code": code.group(1) if code else str(answer.status_code),
            "Message": message.group(1) if message else "",
        },
        "ResponseMetadata": {
            "HTTPStatusCode": answer.status_code,
            "HTTPHeaders": dict(answer.headers),
        },
    }
    return ClientError(response, f"presigned {method}")


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"
