"""What the uploads of one tenant may take."""

from __future__ import annotations

from tests.ingress.fal.test_uploads import initiate_upload, pieces
from tests.ingress.house import build_house


async def test_a_tenant_s_files_take_no_more_bytes_than_they_may_until_some_are_deleted() -> None:
    other_limit = {"other": {"max_uploads_bytes": 5000}}
    async with (
        build_house(
            replica=False, max_uploads_bytes_per_tenant=1000, tenant_limits=other_limit
        ) as house,
        house.client() as client,
        house.client(house.other_key) as other,
    ):
        parts = (await initiate_upload(client, "initiate-multipart"))["upload_url"]
        assert (await client.put(f"{parts}/1", content=bytes(300))).status_code == 200
        stored = await client.post("/cdn/files/upload", content=bytes(600))
        refused = [
            await client.post("/cdn/files/upload", content=bytes(101)),
            await client.post("/cdn/files/upload", content=pieces(3, 50)),  # no declared size
            await client.put(f"{parts}/2", content=bytes(101)),
        ]
        for answer in refused:
            assert (answer.status_code, "retry-after" in answer.headers) == (507, True)
            assert "DARKROOM_MAX_UPLOADS_BYTES_PER_TENANT" in answer.json()["detail"]
        assert sum(len(content) for content in house.storage.objects.values()) == 600
        assert (await other.post("/cdn/files/upload", content=bytes(4000))).status_code == 200
        assert (await client.put(f"{parts}/2", content=bytes(100))).status_code == 200
        full = await client.post("/rest/storage/upload/initiate", json={})
        assert full.status_code == 507
        key = stored.json()["access_url"].partition("/files/")[2]
        assert (await client.delete(f"/v1/uploads/{key}")).status_code in (200, 202, 204)
        assert (await client.post("/cdn/files/upload", content=bytes(500))).status_code == 200


async def test_open_offers_of_a_tenant_are_limited() -> None:
    async with (
        build_house(replica=False, max_open_uploads_per_tenant=2) as house,
        house.client() as client,
        house.client(house.other_key) as other,
    ):
        place = await initiate_upload(client)
        await initiate_upload(client, "initiate-multipart")
        refused = await client.post("/rest/storage/upload/initiate", json={})
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "60")
        assert "DARKROOM_MAX_OPEN_UPLOADS_PER_TENANT" in refused.json()["detail"]
        await initiate_upload(other)
        assert (await client.put(place["upload_url"], content=b"x")).status_code == 200
        await initiate_upload(client)
