"""Prompts, files, webhooks and usage that are deleted by age while their requests stay."""

from __future__ import annotations

from datetime import timedelta

from serve_app.domain.request import Redacted, State
from serve_app.domain.webhook import Webhook
from serve_app.postgres.database import Database
from serve_app.queue import retention as module
from serve_app.queue.queue import PostgresQueue
from serve_app.queue.request_log import LINES
from serve_app.queue.retention import RetentionByKind
from serve_app.queue.store.config import DAY_S, Retention
from serve_app.queue.transactions.redaction import Redaction
from serve_app.settings import TenantLimits
from tests.contract.test_deletion_contract import new_request
from tests.queue.database import Ingress
from tests.queue.transactions.test_deletion import make_aged_request, unwanted_keys

OWN = {
    "bob": TenantLimits(prompt_retention_days=1, file_retention_days=1),
    "cleo": TenantLimits(weight=2),
}


async def three_ages(queue: PostgresQueue, database: Database) -> dict[tuple[str, int], str]:
    """Requests of three tenants that ended today, two and nine days ago."""
    ids: dict[tuple[str, int], str] = {}
    for tenant in ("ann", "bob", "cleo"):
        for days in (0, 2, 9):
            ids[tenant, days] = await make_aged_request(
                queue,
                database,
                days,
                tenant=tenant,
                input={"prompt": f"a secret of {tenant}"},
                reuse_digest=bytes(31) + bytes([days]),
            )
    await database.rows(
        "UPDATE artifacts a SET created_at = r.finished_at FROM requests r "
        "WHERE r.id = a.request_id"
    )
    await database.rows(
        "UPDATE request_words w SET request_id = r.id FROM requests r WHERE r.tenant = w.tenant "
        "AND substr(r.id::text, 14) = substr(w.request_id::text, 14)"
    )
    return ids


async def test_prompts_are_erased_by_age_and_tenant_and_the_requests_stay(
    ingress: Ingress, database: Database
) -> None:
    queue = await ingress()
    ids = await three_ages(queue, database)
    waiting = new_request(tenant="bob")
    await queue.submit(waiting)
    by_kind = RetentionByKind(database, Retention(tenants=OWN, prompt_days=7))
    assert await by_kind.erase_prompts() == 4
    assert await by_kind.erase_prompts() == 0
    await Redaction(database).redact_due()
    erased = {("ann", 9), ("bob", 2), ("bob", 9), ("cleo", 9)}
    lines = LINES.format(id="x.id", after="0")
    rows = await database.rows(
        "SELECT id::text, state, forgetting, input::text, outcome::text, reuse_digest IS NULL, "
        f"(SELECT count(*) FROM ({lines}) l), "
        "(SELECT count(*) FROM request_words w WHERE w.request_id = x.id) "
        "FROM requests x WHERE outcome IS NOT NULL"
    )
    assert len(rows) == len(ids)
    for id_, state, forgetting, input_text, outcome, unshared, lines, words in rows:
        gone = next(place for place, aged_id in ids.items() if aged_id == id_) in erased
        assert state == State.SUCCEEDED
        assert (forgetting == Redacted.DONE) is gone
        assert ("secret" in input_text) is not gone
        assert ('"images"' in outcome) is not gone
        assert unshared is gone
        assert (lines == 0) is gone
        assert (words == 0) is gone
    assert (await queue.get("bob", waiting.id)).input == waiting.input


async def test_a_prompt_stays_as_long_as_a_draft_of_its_request(
    ingress: Ingress, database: Database
) -> None:
    id_ = await make_aged_request(await ingress(), database, 9)
    await database.rows(
        "INSERT INTO drafts (id, tenant, request_id, key, size, sha256, facts, expires_at) "
        "VALUES ('d', 't', %(id)s::text::uuid, 'd/a', 1, '', '{}', now())",
        {"id": id_},
    )
    by_kind = RetentionByKind(database, Retention(prompt_days=7))
    assert await by_kind.erase_prompts() == 0
    await database.rows("DELETE FROM drafts")
    assert await by_kind.erase_prompts() == 1


async def test_files_are_deleted_by_age_and_tenant(ingress: Ingress, database: Database) -> None:
    queue = await ingress()
    ids = await three_ages(queue, database)
    by_kind = RetentionByKind(database, Retention(tenants=OWN, file_days=7))
    assert await by_kind.delete_files() == 4
    assert await by_kind.delete_files() == 0
    left = {id_ for (id_,) in await database.rows("SELECT request_id::text FROM artifacts")}
    gone = {ids["ann", 9], ids["bob", 2], ids["bob", 9], ids["cleo", 9]}
    assert left == set(ids.values()) - gone
    assert len(await unwanted_keys(database)) == 4


async def test_a_shared_file_stays_for_the_age_of_the_last_request_that_has_it(
    ingress: Ingress, database: Database
) -> None:
    queue = await ingress()
    shared = {"reuse_digest": bytes(32)}
    first = await make_aged_request(queue, database, 9, **shared)
    await database.rows("UPDATE artifacts SET created_at = now() - interval '9 days'")
    second = new_request(**shared)
    await queue.submit(second)
    assert (await queue.get(second.tenant, second.id)).reuses == first
    by_kind = RetentionByKind(database, Retention(file_days=7))
    assert await by_kind.delete_files() == 0
    await database.rows("UPDATE requests SET finished_at = now() - interval '8 days'")
    assert await by_kind.delete_files() == 1


async def test_a_tenants_own_age_counts_also_without_one_for_all(
    ingress: Ingress, database: Database
) -> None:
    queue = await ingress()
    await three_ages(queue, database)
    by_kind = RetentionByKind(database, Retention(tenants=OWN))
    assert (await by_kind.erase_prompts(), await by_kind.delete_files()) == (2, 2)
    nothing = RetentionByKind(database, Retention())
    assert await nothing.erase_prompts() == await nothing.delete_files() == 0
    assert await nothing.delete_deliveries() == await nothing.delete_usage() == 0


async def test_one_call_deletes_a_bounded_number_and_the_next_goes_on(
    ingress: Ingress, database: Database, monkeypatch
) -> None:
    monkeypatch.setattr(module, "AT_ONCE", 2)
    monkeypatch.setattr(module, "MAX_STATEMENTS", 1)
    queue = await ingress()
    for _ in range(3):
        await make_aged_request(queue, database, 9, tenant="ann")
    await database.rows("UPDATE artifacts SET created_at = now() - interval '9 days'")
    by_kind = RetentionByKind(database, Retention(file_days=7, prompt_days=7))
    assert [await by_kind.delete_files() for _ in range(3)] == [2, 1, 0]
    assert [await by_kind.erase_prompts() for _ in range(3)] == [2, 1, 0]


async def test_webhooks_that_have_ended_are_deleted_with_their_tries_and_url(
    ingress: Ingress, database: Database
) -> None:
    queue = await ingress()
    url = "https://example.com/hook?secret=1"
    for days in (0, 9, 9):
        await make_aged_request(queue, database, days, webhook=Webhook(url, "http://here"))
    await database.rows(
        "UPDATE webhook_deliveries w SET request_id = r.id FROM requests r "
        "WHERE substr(r.id::text, 14) = substr(w.request_id::text, 14)"
    )
    await database.rows(
        "UPDATE webhook_deliveries w SET state = 'delivered', ended_at = r.finished_at "
        "FROM requests r WHERE r.id = w.request_id"
    )
    await database.rows(
        "INSERT INTO webhook_tries (delivery, claim, took_s) SELECT id, 1, 0.1 "
        "FROM webhook_deliveries"
    )
    pending = "UPDATE webhook_deliveries SET state = 'pending', ended_at = NULL WHERE id IN "
    await database.rows(pending + "(SELECT id FROM webhook_deliveries ORDER BY ended_at LIMIT 1)")
    by_kind = RetentionByKind(database, Retention(webhook_days=7))
    assert await by_kind.delete_deliveries() == 1
    assert await by_kind.delete_deliveries() == 0
    states = await database.rows("SELECT state FROM webhook_deliveries ORDER BY state")
    assert [state for (state,) in states] == ["delivered", "pending"]
    assert await database.rows("SELECT count(*)::integer FROM webhook_tries") == [(2,)]
    named = "SELECT count(*)::integer FROM requests WHERE webhook_url IS NOT NULL"
    assert await database.rows(named) == [(2,)]


async def test_usage_is_deleted_by_whole_days(ingress: Ingress, database: Database) -> None:
    queue = await ingress()
    for days in (0, 39, 41):
        await make_aged_request(queue, database, days)
    await database.rows(
        "UPDATE usage u SET at = r.finished_at FROM requests r "
        "WHERE substr(r.id::text, 14) = substr(u.request_id::text, 14)"
    )
    await database.rows(
        "INSERT INTO usage_days (day, tenant, endpoint, state, requests, run_s, steps, units, "
        "images, megapixels) SELECT (now() - make_interval(days => d))::date, t, 'e', "
        "'succeeded', 1, 1, 1, 1, 1, 1 FROM unnest(ARRAY[30, 45, 90]) d, "
        "unnest(ARRAY['ann', 'deleted:bob']) t"
    )
    by_kind = RetentionByKind(database, Retention(usage_days=40))
    assert await by_kind.delete_usage() == 1 + 4
    assert await by_kind.delete_usage() == 0
    assert await database.rows("SELECT count(*)::integer FROM usage") == [(2,)]
    left = await database.rows("SELECT tenant FROM usage_days ORDER BY tenant")
    assert left == [("ann",), ("deleted:bob",)]


def test_uploads_have_the_age_of_files_or_else_of_requests() -> None:
    retention = Retention(30, {"hasty": TenantLimits(file_retention_days=2)})
    day = timedelta(seconds=DAY_S)
    assert retention.upload_age_s("ann") == (30 * day).total_seconds()
    assert retention.upload_age_s("hasty") == (2 * day).total_seconds()
    assert Retention(30, file_days=7).upload_age_s("ann") == (7 * day).total_seconds()
    assert Retention().any_upload is False
    assert Retention(file_days=7).any_upload is True
