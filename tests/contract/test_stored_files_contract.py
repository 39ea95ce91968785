"""Contract of ``StoredFiles``: run over the fake and over PostgreSQL."""

from __future__ import annotations

from serve_app.domain.artifact import Artifact, StoredSum
from serve_app.domain.outcome import Outcome
from serve_app.domain.ports import Queue
from tests.queue.requests import TENANT, failure, lease, make_finish, new, new_id
from tests.queue.test_drafts import finish_with_drafts


def file(media_type: str, size: int, thumbnail: int = 0) -> Artifact:
    small = file("image/webp", thumbnail) if thumbnail else None
    key = f"r/{new_id()}/1/0.bin"
    return Artifact(key, media_type, size, "0" * 64, thumbnail=small)


async def run_request(queue: Queue, *files: Artifact, tenant: str = TENANT) -> None:
    await queue.submit(new(tenant=tenant))
    await queue.finish(make_finish((await lease(queue)).key, Outcome(output={}, artifacts=files)))


async def test_files_are_counted_by_tenant_and_kind(queue: Queue) -> None:
    await run_request(queue, file("image/png", 100, thumbnail=9), file("image/webp", 50))
    await run_request(queue, file("video/mp4", 1000), tenant="bob")
    await run_request(queue, file("application/octet-stream", 5), tenant="bob")
    await finish_with_drafts(queue, new(), "one", "two", size=7)
    await queue.submit(new())
    await queue.finish(make_finish((await lease(queue)).key, failure()))
    use = await queue.stored_files.use()
    assert sorted(use.sums, key=lambda stored_sum: (stored_sum.tenant, stored_sum.kind)) == [
        StoredSum(TENANT, "draft", 2, 14),
        StoredSum(TENANT, "image", 2, 150),
        StoredSum(TENANT, "thumbnail", 1, 9),
        StoredSum("bob", "other", 1, 5),
        StoredSum("bob", "video", 1, 1000),
    ]


async def test_files_in_buckets_of_clients_are_not_stored_here(queue: Queue) -> None:
    elsewhere = Artifact("https://bucket.example/x.png", "image/png", 100, "0" * 64)
    await run_request(queue, elsewhere)
    assert (await queue.stored_files.use()).sums == []
