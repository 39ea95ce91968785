"""Self-test of a storage: every operation that Darkroom performs on it, one after the other."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass

from serve_app.domain.errors import ArtifactNotFound, DarkroomError, Forbidden, StorageUnavailable
from serve_app.domain.ports import Storage

MEDIA_TYPE = "application/octet-stream"


@dataclass(frozen=True, slots=True)
class SelfTestStep:
    """Step of the self-test. ``run`` returns a short result or raises an error with the remedy."""

    name: str
    run: Callable[[], Awaitable[str]]
    needed: bool = False  # if it fails, the following steps would fail too


@dataclass(frozen=True, slots=True)
class StepResult:
    """Result of a step. ``message`` is the result, or the problem and its remedy."""

    name: str
    message: str
    problem: bool = False


async def findings(steps: Sequence[SelfTestStep]) -> AsyncIterator[StepResult]:
    """Run the steps and yield their findings. Stops after a needed step that fails."""
    for step in steps:
        try:
            yield StepResult(step.name, await step.run())
        except DarkroomError as error:
            yield StepResult(step.name, error.message, problem=True)
            if step.needed:
                return


class SelfTest:
    """Self-test of any storage, with one small object below ``check/``."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self.key = fresh_key()
        self.content = secrets.token_bytes(1000)

    def steps(self) -> list[SelfTestStep]:
        return [
            SelfTestStep("put", self.put, needed=True),
            SelfTestStep("get", self.get),
            SelfTestStep("range", self.range),
            SelfTestStep("missing", self.missing),
            SelfTestStep("unchanged", self.unchanged),
        ]

    def last_steps(self) -> list[SelfTestStep]:
        return [SelfTestStep("delete", self.delete)]

    async def put(self) -> str:
        size = await self.storage.put(self.key, MEDIA_TYPE, pieces(self.content))
        return f"stored {size} bytes"

    async def get(self) -> str:
        size = await self.storage.size(self.key)
        self._compare(await read_all(self.storage, self.key, 0, size), self.content)
        return f"the same {size} bytes came back"

    async def range(self) -> str:
        self._compare(await read_all(self.storage, self.key, 100, 200), self.content[100:200])
        return "a range came back correctly"

    async def missing(self) -> str:
        try:
            await self.storage.size(fresh_key())
        except ArtifactNotFound:
            return "a missing object is reported as missing"
        except StorageUnavailable as error:
            raise StorageUnavailable(
                f"A missing object is not reported as missing. On AWS this needs the permission "
                f"s3:ListBucket. {error.message}"
            ) from error
        raise StorageUnavailable("The storage reports an object that was never stored.")

    async def unchanged(self) -> str:
        try:
            await self.storage.put(self.key, MEDIA_TYPE, pieces(b"other"))
        except Forbidden:
            return "an object cannot be overwritten"
        raise StorageUnavailable("An object was overwritten, although objects must never change.")

    async def delete(self) -> str:
        await self.storage.delete([self.key])
        try:
            await self.storage.size(self.key)
        except ArtifactNotFound:
            return "deleted"
        raise StorageUnavailable("A deleted object still exists.")

    def _compare(self, came: bytes, expected: bytes) -> None:
        if came != expected:
            raise StorageUnavailable(
                f"The bytes that came back differ from those stored ({len(came)} bytes instead of "
                f"{len(expected)}). The store, or a proxy in front of it, changes them."
            )


def fresh_key() -> str:
    return f"check/{secrets.token_hex(8)}.bin"


async def pieces(content: bytes) -> AsyncIterator[bytes]:
    yield content


async def read_all(storage: Storage, key: str, start: int, end: int) -> bytes:
    return b"".join([chunk async for chunk in storage.read(key, start, end)])
