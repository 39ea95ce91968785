"""Access rules of another tenant's files: their ids, and refusals, tell nothing of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

import httpx
import pytest

from serve_app.domain.media.file_access import AccessDecision, FileAccess
from serve_app.tenants.scopes import API, SUBMIT
from tests.ingress.api.files.private import bare, lifecycle, upload_file, without_key
from tests.ingress.house import House, build_house

OWNER, STRANGER = "default", "stranger"
INVENTED = "/files/p/AAAAAAAAAAAAAAAAAAAAAA/u/AAAAAAAAAAAAAAAAAAAAAA/file.png"


@dataclass
class Scene:
    house: House
    owner: httpx.AsyncClient
    stranger: httpx.AsyncClient
    hidden: str  # path of a hidden file


@pytest.fixture
async def scene() -> AsyncIterator[Scene]:
    async with build_house() as house:
        key = str(await house.keys.create(STRANGER))
        async with house.client() as owner, house.client(key) as stranger:
            hidden = httpx.URL(bare(await upload_file(owner, lifecycle("hide")))).path
            yield Scene(house, owner, stranger, hidden)


@pytest.mark.parametrize("default", AccessDecision)
async def test_ids_of_access_rules_tell_nothing_of_a_tenant_or_of_its_friends(
    scene: Scene, default: AccessDecision
) -> None:
    """Neither those of files from before ids were keyed, which anybody can compute, nor those that
    are in the URL of a file that one may read."""
    old = FileAccess(OWNER, default, {"friend": AccessDecision.FORBID})
    await scene.house.rules.keep(old)
    rules = lifecycle(default, friend="forbid")
    url = (await upload_file(scene.owner, rules)).partition("?")[0]
    (known,) = {part for part in url.split("/") if part in scene.house.rules.ids} - {old.id}
    computed = FileAccess("nobody", default, {"friend": AccessDecision.FORBID}).id
    weak = str(await scene.house.keys.create(STRANGER, scopes=frozenset({API, SUBMIT})))
    friend = str(await scene.house.keys.create("friend"))
    async with (
        without_key(scene.house) as guest,
        scene.house.client(weak) as scopeless,
        scene.house.client(friend) as named,
    ):
        for reader in (guest, scopeless, scene.stranger, named):
            for query in ("", "?signature=x"):
                answers = [
                    await reader.get(f"/files/p/{id_}/u/{'A' * 22}/x.png{query}")
                    for id_ in (old.id, known, computed)
                ]
                assert {answer.status_code for answer in answers} == {404}
                assert len({answer.text for answer in answers}) == 1
        for client in (scopeless, scene.stranger, named):
            for id_ in (old.id, known, computed):
                body = {"echo": f"http://testserver/files/p/{id_}/u/{'A' * 22}/x.png"}
                sent = await client.post("/queue/test/probe", json=body)
                assert sent.status_code == 200, "its replica learns that there is none"


async def test_a_forbidden_file_is_refused_and_a_hidden_one_is_not_there(scene: Scene) -> None:
    forbidden = (await upload_file(scene.owner, lifecycle("forbid"))).partition("?")[0]
    hidden = scene.hidden
    weak = str(await scene.house.keys.create(STRANGER, scopes=frozenset({API, SUBMIT})))
    async with without_key(scene.house) as guest, scene.house.client(weak) as scopeless:
        for reader in (guest, scopeless, scene.stranger):
            assert (await reader.get(forbidden)).status_code == 403
            theirs, none = await reader.get(hidden), await reader.get(INVENTED)
            assert (theirs.status_code, theirs.text) == (none.status_code, none.text)
            assert theirs.status_code == 404
        for header in ("Key nobody:0123", "Bearer darkroom-reader.a.b.c"):
            headers = {"authorization": header}
            theirs = await guest.get(hidden, headers=headers)
            none = await guest.get(INVENTED, headers=headers)
            assert (theirs.status_code, theirs.text) == (none.status_code, none.text)
        sent = await scene.stranger.post("/queue/test/probe", json={"echo": forbidden})
        assert sent.status_code == 403
