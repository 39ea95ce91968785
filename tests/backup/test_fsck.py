"""Differences between rows and files: found, explained, mended."""

from __future__ import annotations

from hashlib import sha256

import pytest

from serve_app.backup.fsck import Check
from serve_app.backup.installation import OpenInstallation
from serve_app.domain.artifact import Artifact
from serve_app.domain.errors import ArtifactNotFound, Misconfigured
from serve_app.domain.outcome import Outcome
from serve_app.telemetry.clock import SystemClock
from tests.backup.conftest import every_storage, finish, put
from tests.queue.database import Ingress
from tests.queue.requests import lease, make_finish, new

ORPHAN = "r/00000000-0000-7000-8000-000000000000/1/abc.png"


async def make_artifacts(ingress: Ingress, target: OpenInstallation, count: int) -> list[Artifact]:
    queue = await ingress()
    artifacts: list[Artifact] = []
    for _ in range(count):
        await queue.submit(new())
        artifacts.append(await finish(queue, target, await lease(queue)))
    return artifacts


async def find_problems(
    target: OpenInstallation, *, grace_s: float = 0, mend: bool = False
) -> list[tuple[str, str]]:
    check = Check(target, SystemClock(), grace_s=grace_s)
    return [(finding.problem, finding.key) async for finding in check.findings(mend=mend)]


@every_storage
async def test_a_deleted_file_and_an_orphan_are_found_and_mended(
    source: OpenInstallation, ingress: Ingress
) -> None:
    kept, lost = await make_artifacts(ingress, source, 2)
    assert await find_problems(source) == []
    await source.storage.delete([lost.key])
    await put(source, ORPHAN, b"orphan")
    expected = [("missing", lost.key), ("orphaned", ORPHAN)]
    assert sorted(await find_problems(source)) == expected
    assert sorted(await find_problems(source, mend=True)) == expected
    assert await find_problems(source) == []
    with pytest.raises(ArtifactNotFound):
        await source.storage.size(ORPHAN)
    assert await source.storage.size(kept.key) == kept.size


@pytest.mark.long
@every_storage
async def test_a_young_file_without_a_row_is_left_alone(
    source: OpenInstallation, ingress: Ingress
) -> None:
    await make_artifacts(ingress, source, 1)
    await put(source, ORPHAN, b"its upload may be under way")
    check = Check(source, SystemClock())
    assert [finding async for finding in check.findings(mend=True)] == []
    assert (check.totals.young, check.totals.problems) == (1, 0)
    assert await source.storage.size(ORPHAN) == 27


async def test_files_of_a_running_attempt_are_no_orphans(
    source: OpenInstallation, ingress: Ingress
) -> None:
    queue = await ingress()
    await queue.submit(new())
    key = (await lease(queue)).key
    await put(source, f"r/{key.request_id}/{key.attempt}/abc.png", b"not finished yet")
    await put(source, f"p/rules/r/{key.request_id}/{key.attempt}/abc.png", b"private")
    assert await find_problems(source) == []


async def test_files_that_are_marked_for_deletion_are_no_orphans(source: OpenInstallation) -> None:
    await put(source, ORPHAN, b"deleted soon")
    await source.database.rows(
        "INSERT INTO jobs (kind, key) VALUES ('file', %(key)s)", {"key": ORPHAN}
    )
    assert await find_problems(source) == []


@pytest.mark.long
@every_storage
async def test_a_file_of_another_size_is_damaged(
    source: OpenInstallation, ingress: Ingress
) -> None:
    (artifact,) = await make_artifacts(ingress, source, 1)
    await source.database.rows("UPDATE artifacts SET size = size + 1")
    assert await find_problems(source) == [("damaged", artifact.key)]


async def test_a_file_of_other_bytes_is_damaged_if_digests_are_compared(
    source: OpenInstallation, ingress: Ingress
) -> None:
    damaged, whole = await make_artifacts(ingress, source, 2)
    await source.database.rows(
        "UPDATE artifacts SET sha256 = repeat('0', 64) WHERE key = %(key)s", {"key": damaged.key}
    )
    assert await find_problems(source) == []
    check = Check(source, SystemClock(), checksums=True)
    assert [(finding.problem, finding.key) async for finding in check.findings()] == [
        ("damaged", damaged.key)
    ]
    assert check.totals.read_bytes == damaged.size + whole.size


async def test_nothing_is_mended_with_the_storage_of_another_database(
    source: OpenInstallation, ingress: Ingress
) -> None:
    (lost,) = await make_artifacts(ingress, source, 1)
    await source.storage.delete([lost.key])
    await put(source, ORPHAN, b"another installation's")
    with pytest.raises(Misconfigured, match="belong to another database"):
        await find_problems(source, mend=True)
    assert await source.storage.size(ORPHAN) == 22
    assert await source.database.rows("SELECT key FROM artifacts") == [(lost.key,)]


@pytest.mark.long
@every_storage
async def test_the_file_of_a_draft_is_known_and_a_lost_one_is_no_draft_any_more(
    source: OpenInstallation, ingress: Ingress
) -> None:
    queue = await ingress()
    await make_artifacts(ingress, source, 1)
    request = new()
    await queue.submit(request)
    leased = (await lease(queue)).key
    key = f"d/{request.id}/1/abc.bin"
    await put(source, key, b"draft")
    facts = {"id": "one", "seed": 1, "step": 1, "steps": 4, "noise": None}
    file = Artifact(key, "application/vnd.darkroom.draft", 5, sha256(b"draft").hexdigest())
    await queue.finish(make_finish(leased, Outcome(output={"drafts": [facts]}, drafts=(file,))))
    assert await find_problems(source) == []
    await source.storage.delete([key])
    assert await find_problems(source, mend=True) == [("missing", key)]
    assert await source.database.rows("SELECT id FROM drafts") == []
