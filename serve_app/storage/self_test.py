"""Tries all that Darkroom does with a storage, one thing after the other."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass

from serve_app.domain.errors import ArtifactNotFound, DarkroomError, Forbidden, StorageUnavailable
from serve_app.domain.ports import Storage

MEDIA_TYPE = "application/octet-stream"


@dataclass(frozen=True, slots=True)
class Step:
    """``run`` says in a few words what it saw, or raises an error that says what to do."""

    name: str
    run: Callable[[], Awaitable[str]]
    needed: bool = False  # without it the rest would fail as well


@dataclass(frozen=True, slots=True)
class Finding:
    """How a step ended: ``said`` is what it saw, or what is wrong and what to do."""

    name: str
    said: str
    problem: bool = False


async def findings(steps: Sequence[Step]) -> AsyncIterator[Finding]:
    """As they come. A needed step that fails ends it."""
    for step in steps:
        try:
            yield Finding(step.name, await step.run())
        except DarkroomError as error:
            yield Finding(step.name, error.message, problem=True)
            if step.needed:
                return


class Trial:
    """Steps that any storage takes, on one small object below ``check/``."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self.key = fresh_key()
        self.content = secrets.token_bytes(1000)

    def steps(self) -> list[Step]:
        return [
            Step("put", self.put, needed=True),
            Step("get", self.get),
            Step("range", self.range),
            Step("missing", self.missing),
            Step("unchanged", self.unchanged),
        ]

    def last_steps(self) -> list[Step]:
        return [Step("delete", self.delete)]

    async def put(self) -> str:
        size = await self.storage.put(self.key, MEDIA_TYPE, pieces(self.content))
        return f"stored {size} bytes"

    async def get(self) -> str:
        size = await self.storage.size(self.key)
        self._compare(await whole(self.storage, self.key, 0, size), self.content)
        return f"the same {size} bytes came back"

    async def range(self) -> str:
        self._compare(await whole(self.storage, self.key, 100, 200), self.content[100:200])
        return "a part came back as that part"

    async def missing(self) -> str:
        try:
            await self.storage.size(fresh_key())
        except ArtifactNotFound:
            return "what is not there is told as such"
        except StorageUnavailable as error:
            raise StorageUnavailable(
                f"What is not there is not told as such. On AWS that takes s3:ListBucket. "
                f"{error.message}"
            ) from error
        raise StorageUnavailable("The storage says that it has what was never put there.")

    async def unchanged(self) -> str:
        try:
            await self.storage.put(self.key, MEDIA_TYPE, pieces(b"other"))
        except Forbidden:
            return "an object cannot be written over"
        raise StorageUnavailable("An object was written over.")

    async def delete(self) -> str:
        await self.storage.delete([self.key])
        try:
            await self.storage.size(self.key)
        except ArtifactNotFound:
            return "deleted, and gone"
        raise StorageUnavailable("What was deleted is still there.")

    def _compare(self, came: bytes, wanted: bytes) -> None:
        if came != wanted:
            raise StorageUnavailable(
                f"Other bytes came back than were asked for ({len(came)} for {len(wanted)}): "
                "a proxy between, or the store, changes them."
            )


def fresh_key() -> str:
    return f"check/{secrets.token_hex(8)}.bin"


async def pieces(content: bytes) -> AsyncIterator[bytes]:
    yield content


async def whole(storage: Storage, key: str, start: int, end: int) -> bytes:
    return b"".join([chunk async for chunk in storage.read(key, start, end)])
