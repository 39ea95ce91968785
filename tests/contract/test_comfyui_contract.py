"""Contract of what clients of ComfyUI ask for: over the fake and over PostgreSQL."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import pytest

from serve_app.domain.errors import NotFound, StorageFull, TooLarge
from serve_app.domain.executors.comfyui import (
    MAX_FILE_BYTES,
    MAX_FILES,
    MAX_PACKED_BYTES,
    ComfyUiBook,
)
from serve_app.domain.ports import Queue
from serve_app.postgres.comfyui import PostgresComfyUiBook
from serve_app.telemetry.clock import SystemClock
from tests.fakes.comfyui import FakeComfyUiBook
from tests.fakes.queue import FakeQueue
from tests.queue.connections import LastingDatabase

FLOW = "workflows/cat.json"


@pytest.fixture
async def book(at: str | None, queue: Queue) -> AsyncIterator[ComfyUiBook]:
    if isinstance(queue, FakeQueue):
        yield FakeComfyUiBook(SystemClock())
        return
    assert at is not None
    database = LastingDatabase(at, connections=2)
    await database.start()
    yield PostgresComfyUiBook(database)
    await database.aclose()


async def test_the_last_description_is_kept(book: ComfyUiBook) -> None:
    assert (await book.digest(), await book.description()) == ("", None)
    await book.describe(b"first")
    first = await book.digest()
    await book.describe(b"second")
    assert await book.description() == b"second"
    assert len({"", first, await book.digest()}) == 3
    with pytest.raises(TooLarge, match="above the limit of 8"):
        await book.describe(b"x" * (MAX_PACKED_BYTES + 1))
    assert await book.description() == b"second"


async def test_a_file_belongs_to_its_tenant(book: ComfyUiBook) -> None:
    assert await book.put("house", FLOW, b"mine", overwrite=False)
    assert await book.put("other", FLOW, b"theirs", overwrite=False)
    assert not await book.put("other", FLOW, b"again", overwrite=False)
    assert await book.read("house", FLOW) == b"mine"
    assert [(file.path, file.size) for file in await book.files("house")] == [(FLOW, 4)]
    assert await book.put("other", "b.json", b"theirs")
    assert await book.move("house", FLOW, "b.json", overwrite=False)
    assert await book.read("other", FLOW) == b"theirs"
    assert await book.move("house", "b.json", FLOW)
    await book.merge("other", "settings", {"theirs": 1})
    await book.merge("house", "settings", {"mine": 1})
    assert json.loads(await book.read("house", "settings") or b"") == {"mine": 1}
    assert await book.remove("house", "settings")
    assert await book.remove("other", FLOW)
    assert not await book.remove("other", FLOW)
    assert await book.read("other", FLOW) is None
    (info,) = await book.files("house")
    assert (info.path, info.size) == (FLOW, 4)
    with pytest.raises(NotFound):
        await book.move("other", FLOW, "workflows/stolen.json")


async def test_a_file_is_replaced_only_if_it_may_be(book: ComfyUiBook) -> None:
    assert await book.put("house", FLOW, b"first", overwrite=False)
    assert not await book.put("house", FLOW, b"second", overwrite=False)
    assert await book.read("house", FLOW) == b"first"
    assert await book.put("house", FLOW, b"third")
    await book.put("house", "b.json", b"other")
    assert not await book.move("house", "b.json", FLOW, overwrite=False)
    assert await book.move("house", "b.json", "b.json", overwrite=False)
    assert [file.path for file in await book.files("house")] == ["b.json", FLOW]
    assert await book.move("house", "b.json", FLOW)
    assert await book.read("house", FLOW) == b"other"
    assert [file.path for file in await book.files("house")] == [FLOW]


async def test_values_that_are_set_at_once_are_all_kept(book: ComfyUiBook) -> None:
    await book.merge("house", "settings", {"Comfy.Theme": None})
    await asyncio.gather(*(book.merge("house", "settings", {f"n{n}": n}) for n in range(8)))
    settings = json.loads(await book.read("house", "settings") or b"")
    assert settings == {"Comfy.Theme": None} | {f"n{n}": n for n in range(8)}


async def test_a_tenant_has_only_so_much(book: ComfyUiBook) -> None:
    with pytest.raises(StorageFull, match="no room"):
        await book.put("house", FLOW, b"x" * (MAX_FILE_BYTES + 1))
    for number in range(MAX_FILES):
        await book.put("house", f"{number}.json", b"{}")
    with pytest.raises(StorageFull):
        await book.put("house", "more.json", b"{}")
    with pytest.raises(StorageFull):
        await book.merge("house", "settings.json", {"a": 1})
    assert await book.put("house", "0.json", b"[]"), "what is there may change"
    assert await book.put("other", "more.json", b"{}")
    await book.merge("other", "settings.json", {"a": 1})
