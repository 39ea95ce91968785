"""``/v1/storage``: what is stored, for whom, where, and how long."""

from __future__ import annotations

from pathlib import Path

from tests.ingress.fal.test_submit import wait_until_completed
from tests.ingress.house import House, build_house

FLUX, INPUT = "fal-ai/flux/schnell", {"prompt": "a hill"}


async def test_an_operator_sees_what_is_stored_by_kind_and_tenant(tmp_path: Path) -> None:
    async with build_house(data_dir=tmp_path, retention_days=30) as house, house.client() as client:
        await wait_until_completed(client, (await client.post(f"/queue/{FLUX}", json=INPUT)).json())
        async with house.client(house.other_key) as other:
            answer = await other.post("/rest/storage/upload/initiate", json={"file_name": "a.png"})
            await other.put(answer.json()["upload_url"], content=b"12345")
        body = (await client.get("/v1/storage")).json()
    by_tenant = {tenant["tenant"]: tenant for tenant in body["tenants"]}
    assert by_tenant["other"] == {
        "tenant": "other",
        "files": 1,
        "bytes": 5,
        "kinds": [{"kind": "upload", "files": 1, "bytes": 5}],
    }
    images = next(kind for kind in body["kinds"] if kind["kind"] == "image")
    assert images["files"] == 1
    assert by_tenant["default"]["bytes"] >= images["bytes"] > 0
    assert 0 < body["disk"]["free_bytes"] <= body["disk"]["bytes"]
    own, acme = body["locations"]
    assert (own["type"], own["place"]) == ("directory", str(tmp_path / "artifacts"))
    assert acme == {"id": "acme", "type": "s3", "place": None, "tenants": []}
    assert body["kept_days"] == {"requests": 30, "prompts": 30, "files": 30, "drafts": 1}


async def test_another_key_is_refused(house: House) -> None:
    async with house.client(house.weak_key) as client:
        assert (await client.get("/v1/storage")).status_code == 403
