"""Keys for some endpoints, over the fake queue and PostgreSQL's, which knows an id in each of its
spellings."""

from __future__ import annotations

from typing import cast
from uuid import UUID

from serve_app.domain.ports import Queue
from tests.fakes.queue import FakeQueue
from tests.ingress.house import build_house

OWN, OTHER = "test/deep/model", "test/probe"


async def test_no_spelling_of_an_id_leads_around_the_limit_to_endpoints(queue: Queue) -> None:
    async with build_house(replica=False) as house:
        house.services.queue = queue
        house.queue = cast("FakeQueue", queue)
        limited_key = str(await house.keys.create("default", endpoints=(OWN,)))
        async with house.client() as owner, house.client(limited_key) as limited:
            sent = await owner.post(f"/queue/{OTHER}", json={"prompt": "x"})
            id_ = sent.json()["request_id"]
            for spelled in (id_, id_.upper(), UUID(id_).hex, f"{{{id_}}}", f"urn:uuid:{id_}"):
                path = f"/v1/requests/{spelled}"
                answers = [
                    await limited.get(path),
                    await limited.get(f"{path}/webhook"),
                    await limited.post(f"{path}/share", json={}),
                    await limited.put(f"{path}/cancel"),
                    await limited.delete(path),
                ]
                statuses = [answer.status_code for answer in answers]
                assert set(statuses) <= {403, 404}, (spelled, statuses)
            assert (await queue.get("default", id_)).outcome is None
