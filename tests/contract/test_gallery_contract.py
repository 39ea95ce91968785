"""Contract of the search in requests and of favourites, for every ``Queue``."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serve_app.domain.audit.acts import Actor
from serve_app.domain.errors import Overloaded, RequestNotFound
from serve_app.domain.ports import Queue
from serve_app.domain.request import NewShareLink, RequestFilter, State
from serve_app.queue.store.words import MAX_WORD_CHARACTERS, MAX_WORDS, words_of
from tests.contract.test_deletion_contract import new_id, run_request
from tests.queue.requests import TENANT, new

SDXL = "fal-ai/fast-sdxl"


async def waiting(queue: Queue, prompt: str, **changes: Any) -> str:
    fields = {"id": new_id(), "input": {"prompt": prompt}, **changes}
    return (await queue.submit(new(**fields))).id


async def find_ids(
    queue: Queue, words: str | None = None, limit: int = 50, **more: Any
) -> list[str]:
    """Ids over all pages."""
    ids: list[str] = []
    criteria = RequestFilter(**{"tenant": TENANT, "words": words, **more})
    for _ in range(100):
        page = await queue.gallery.search(criteria, limit)
        assert len(page.requests) <= limit
        ids += [request.id for request in page.requests]
        if page.next_before is None:
            return ids
        criteria = RequestFilter(
            **{"tenant": TENANT, "words": words, **more, "before": page.next_before}
        )
    raise AssertionError("The search never ends.")


async def test_requests_are_found_by_the_words_of_their_prompts(queue: Queue) -> None:
    red = await waiting(queue, "A RED circle, on a green-blue field (no. 7)")
    castle = await waiting(queue, "two castles at the sea")
    mine = await waiting(queue, "", input={"prompt": "x", "lyrics": "Über die Brücke", "n": 5})
    cat = await waiting(queue, "一只红色的猫")
    for words, ids in {
        "red": [red],
        "circle red": [red],
        "Field GREEN": [red],
        "castle": [castle],  # begins the word
        "cas sea": [castle],
        "ca": [],  # too short for that
        "a": [red],
        "red castle": [],
        "über brücke": [mine],
        "红色": [cat],
        "猫 红": [cat],
        "stle": [],
        "it's 'quoted' \\": [],
        ":* & | !": [],
        "": [],
        "7": [red],
    }.items():
        assert await find_ids(queue, words) == ids, words


async def test_a_search_is_narrowed_and_comes_page_by_page(queue: Queue) -> None:
    ids = [await waiting(queue, f"a sea, number {n}") for n in range(5)]
    other = await waiting(queue, "a sea", endpoint=SDXL)
    gone = await waiting(queue, "a sea")
    await queue.cancel(TENANT, gone)
    assert await find_ids(queue, "sea", limit=2) == [gone, other, *reversed(ids)]
    assert await find_ids(queue, "sea", endpoints=[SDXL]) == [other]
    assert await find_ids(queue, "sea", endpoints=[SDXL, "none/such"]) == [other]
    assert await find_ids(queue, "sea", states=[State.CANCELLED]) == [gone]
    assert await find_ids(queue, "sea", before=ids[2]) == [ids[1], ids[0]]
    at = (await queue.get(TENANT, other)).created_at
    assert other not in await find_ids(queue, "sea", until=at)
    assert await find_ids(queue, "sea", since=at + timedelta(hours=1)) == []
    assert await find_ids(queue, endpoints=[SDXL, "none/such"]) == [other]


async def test_a_search_may_begin_and_end_at_any_time_there_is(queue: Queue) -> None:
    request = await waiting(queue, "a sea")
    first, last = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)
    for words in ("sea", None):
        assert await find_ids(queue, words, since=first, until=last) == [request]
        assert await find_ids(queue, words, since=last) == []
        assert await find_ids(queue, words, until=first) == []


async def test_what_is_not_to_be_kept_is_never_found_nor_is_what_was_deleted(
    queue: Queue,
) -> None:
    await waiting(queue, "a secret", store_io=False)
    kept = {"id": new_id(), "input": {"prompt": "a secret garden"}}
    keyed = {"idempotency_key": "k", "body_digest": bytes(32), "id": new_id()}
    deleted = [await waiting(queue, "a secret", **changes) for changes in (keyed, {"id": new_id()})]
    shown = await waiting(queue, "", **kept)
    await queue.gallery.set_favourites(TENANT, deleted, favourite=True)
    for request_id in deleted:
        await queue.cancel(TENANT, request_id)
        await queue.delete(TENANT, request_id)
    assert await find_ids(queue, "secret") == [shown]
    assert await find_ids(queue, favourites=True) == []


async def test_several_requests_are_read_at_once(queue: Queue) -> None:
    first, second = await run_request(queue), await waiting(queue, "a sea")
    other = await waiting(queue, "a sea", tenant="bob")
    several = await queue.gallery.several(TENANT, [first, new_id(), other, second])
    assert [request.id for request in several] == [second, first]
    assert several[1].outcome == (await queue.get(TENANT, first)).outcome


async def test_a_large_input_is_read_as_a_summary_and_is_there_as_a_whole(queue: Queue) -> None:
    whole = {"prompt": "x" * 100_000}
    large, small = await waiting(queue, "", input=whole), await waiting(queue, "small")
    gallery, ids = queue.gallery, [large, small, new_id()]
    assert await gallery.shortened_inputs(TENANT, ids) == {large}
    assert await gallery.shortened_inputs("bob", ids) == frozenset()
    assert await gallery.whole_input(TENANT, large) == whole
    assert await gallery.whole_input("bob", large) is None


async def test_each_tenant_finds_its_own(queue: Queue) -> None:
    await waiting(queue, "a sea", tenant="bob")
    own = await waiting(queue, "a sea")
    assert await find_ids(queue, "sea") == [own]
    gallery = queue.gallery
    assert await gallery.set_favourites("bob", [own], favourite=True) == frozenset()
    for tenant in (TENANT, "bob"):
        assert await gallery.favourites_among(tenant, [own]) == frozenset()
    assert await gallery.set_favourites(TENANT, [own], favourite=True) == {own}
    assert await gallery.favourites_among("bob", [own]) == frozenset()
    await gallery.set_favourites("bob", [own], favourite=False)
    assert await gallery.favourites_among(TENANT, [own]) == {own}


async def test_favourites_are_marked_listed_and_unmarked(queue: Queue) -> None:
    first, second, third = [await waiting(queue, f"a sea {n}") for n in (1, 2, 3)]
    gallery, unknown = queue.gallery, new_id()
    marked = await gallery.set_favourites(TENANT, [first, third, unknown], favourite=True)
    assert marked == {first, third}
    assert await gallery.set_favourites(TENANT, [first], favourite=True) == {first}
    assert await gallery.favourites_among(TENANT, [first, second, unknown]) == {first}
    assert await find_ids(queue, favourites=True) == [third, first]
    assert await find_ids(queue, "3", favourites=True) == [third]
    await gallery.set_favourites(TENANT, [first, third], favourite=False)
    assert await find_ids(queue, favourites=True) == []


async def test_a_share_link_is_read_until_it_is_revoked_or_expires(queue: Queue) -> None:
    gallery, ann = queue.gallery, Actor("key-a", "192.0.2.1")
    id_, other = await waiting(queue, "a sea"), await waiting(queue, "a sea", tenant="bob")
    link = await gallery.share(TENANT, id_, NewShareLink("one", b"1" * 32, 3600.0), ann)
    assert (link.share_id, link.request_id, link.created_by) == ("one", id_, "key-a")
    assert link.expires_at - link.created_at == timedelta(hours=1)
    await gallery.share(TENANT, id_, NewShareLink("two", b"2" * 32, 0.0), ann)
    for missing in (other, new_id()):
        with pytest.raises(RequestNotFound):
            await gallery.share(TENANT, missing, NewShareLink("no", b"3" * 32, 60.0), ann)
    shown = await gallery.find_shared(b"1" * 32)
    assert shown is not None
    assert (shown.request.id, shown.expires_at) == (id_, link.expires_at)
    assert await gallery.find_shared(b"2" * 32) is None  # it has expired
    assert await gallery.find_shared(b"3" * 32) is None
    assert await gallery.shares(TENANT) == [link]
    assert await gallery.shares("bob") == []
    assert not await gallery.revoke_share("bob", "one", ann)
    assert await gallery.revoke_share(TENANT, "one", ann)
    assert await gallery.find_shared(b"1" * 32) is None
    again = await gallery.share(TENANT, id_, NewShareLink("three", b"4" * 32, 60.0), ann)
    await queue.cancel(TENANT, id_)
    await queue.delete(TENANT, id_)
    assert await gallery.find_shared(b"4" * 32) is None
    assert again not in await gallery.shares(TENANT)


async def test_links_of_a_tenant_are_limited_whatever_others_have(
    queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("serve_app.queue.gallery.share_links", "tests.fakes.gallery"):
        monkeypatch.setattr(f"{module}.MAX_LINKS", 1)
    gallery, ann = queue.gallery, Actor("key-a", "192.0.2.1")
    id_, other = await waiting(queue, "a sea"), await waiting(queue, "a sea", tenant="bob")
    await gallery.share("bob", other, NewShareLink("bobs", b"0" * 32, 60.0), ann)
    await gallery.share(TENANT, id_, NewShareLink("one", b"1" * 32, 60.0), ann)
    with pytest.raises(Overloaded, match="share links"):
        await gallery.share(TENANT, id_, NewShareLink("two", b"2" * 32, 60.0), ann)
    with pytest.raises(RequestNotFound):
        await gallery.share(TENANT, other, NewShareLink("two", b"2" * 32, 60.0), ann)


async def test_days_count_what_has_ended(queue: Queue) -> None:
    request_id = await run_request(queue)
    await run_request(queue, endpoint=SDXL)
    for endpoint in ("a/first", SDXL, "z/last"):
        await run_request(queue, endpoint=endpoint, tenant="bob")
    await waiting(queue, "not yet")
    at = (await queue.get(TENANT, request_id)).created_at
    hour = timedelta(hours=1)
    edges = [at - 2 * hour, at - hour, at + hour, at + 2 * hour]
    assert list(await queue.gallery.count_by_day(TENANT, edges, ())) == [0, 2, 0]
    assert list(await queue.gallery.count_by_day(TENANT, edges, [SDXL])) == [0, 1, 0]
    assert list(await queue.gallery.count_by_day("bob", edges, ())) == [0, 3, 0]
    await queue.cancel(TENANT, await waiting(queue, "no more"))
    assert list(await queue.gallery.count_by_day(TENANT, edges, ())) == [0, 3, 0]
    states = (State.SUCCEEDED, State.FAILED)
    assert list(await queue.gallery.count_by_day(TENANT, edges, (), states)) == [0, 2, 0]
    assert list(await queue.gallery.count_by_day("nobody", edges, ())) == [0, 0, 0]


@pytest.mark.long
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.text(), st.text())
def test_words_are_the_same_in_any_case_and_of_a_bounded_number(one: str, two: str) -> None:
    words = words_of(f"{one} {two}")
    assert words == words_of(" ".join(words))
    assert len(words) == len(set(words)) <= MAX_WORDS
    assert all(0 < len(word) <= MAX_WORD_CHARACTERS for word in words)


@pytest.mark.long
@pytest.mark.parametrize("prompt", ["\0 a\0b \ud800 c", "'; DROP TABLE requests; --", "\\' & \\"])
async def test_any_text_is_stored_and_searched(queue: Queue, prompt: str) -> None:
    id_ = await waiting(queue, prompt)
    words: Sequence[str] = words_of(prompt)
    assert await find_ids(queue, prompt) == ([id_] if words else [])
