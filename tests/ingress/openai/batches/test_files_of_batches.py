"""Files of batches as uploads of their tenant: who finds them, and when they may be deleted."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from serve_app.ingress.openai.batches.worker import BatchWorker
from tests.ingress.house import OTHERS, House, build_house
from tests.ingress.openai.batches.test_worker import FILES, create_batch, lines, results, run

REPLICATE, UPLOADS = "/replicate/v1/files", "/v1/uploads"
VIEW = "/comfyui/view?type=input&filename="


@pytest.fixture
async def private() -> AsyncIterator[House]:
    async with build_house(catalog=OTHERS, files="private") as house:
        yield house


async def output_of(house: House, key: str = "") -> tuple[str, str]:
    """Id of the output file of a batch that has ended, and its key in storage."""
    known = await run(house, await create_batch(house, lines(1), key=key))
    file = await house.queue.batches.files.get("default", known["output_file_id"])
    assert file is not None
    return file.id, file.key


async def ways_in(house: House, key: str, file: str, upload: str) -> dict[str, int]:
    """Status of each call that opens the file, made with a key."""
    name = upload.rpartition("/")[2]
    async with house.client(key) as client:
        gets = [
            *(f"{FILES}/{file}", f"{FILES}/{file}/content", f"{REPLICATE}/{upload}"),
            *(f"{VIEW}{upload}", f"{VIEW}{name}", f"/files/{upload}"),
        ]
        codes = {url: (await client.get(url)).status_code for url in gets}
        signed = await client.post("/v1/files/sign", json={"path": f"/files/{upload}"})
        return codes | {"sign": signed.status_code}


async def list_files(house: House, key: str) -> tuple[list[str], list[str]]:
    """Ids in OpenAI's list, and keys in Replicate's."""
    async with house.client(key) as client:
        ids = [entry["id"] for entry in (await client.get(FILES)).json()["data"]]
        return ids, [result["id"] for result in (await client.get(REPLICATE)).json()["results"]]


async def test_a_limited_key_gets_at_outputs_of_other_keys_batches_in_no_way(
    private: House,
) -> None:
    limited = str(await private.keys.create("default", endpoints=("test/*",)))
    file, upload = await output_of(private)
    statuses = await ways_in(private, limited, file, upload)
    assert set(statuses.values()) == {404}, statuses
    ids, keys = await list_files(private, limited)
    assert file not in ids
    assert upload not in keys
    async with private.client(limited) as client:
        for url in (f"{FILES}/{file}", f"{REPLICATE}/{upload}", f"{UPLOADS}/{upload}"):
            assert (await client.delete(url)).status_code == 404, url
    assert upload in private.storage.objects


async def test_it_gets_at_those_of_its_own_and_a_key_without_limits_at_all(private: House) -> None:
    limited = str(await private.keys.create("default", endpoints=("test/*",)))
    own = await output_of(private, limited)
    other = await output_of(private)
    for key, files in ((limited, [own]), (private.key, [own, other])):
        for file, upload in files:
            statuses = await ways_in(private, key, file, upload)
            statuses.pop(f"{VIEW}{upload.rpartition('/')[2]}")  # only media have a bare name
            assert set(statuses.values()) == {200}, statuses
        ids, keys = await list_files(private, key)
        for file, upload in files:
            assert file in ids
            assert upload in keys
    async with private.client(limited) as client:
        assert (await client.delete(f"{UPLOADS}/{own[1]}")).status_code == 200


@pytest.mark.parametrize("way", [f"{FILES}/{{file}}", f"{REPLICATE}/{{key}}", f"{UPLOADS}/{{key}}"])
async def test_a_file_that_a_batch_reads_is_deleted_in_no_way_before_the_batch_has_ended(
    private: House, way: str
) -> None:
    batch = await create_batch(private, lines(2))
    stored = await private.queue.batches.work.find(batch)
    assert stored is not None
    path = way.format(file=stored.input_file, key=stored.input_key)
    async with private.client() as client:
        refused = await client.delete(path)
        assert refused.status_code == 400
        assert f"/openai/v1/batches/{batch}/cancel" in refused.text
        await run(private, batch, BatchWorker(private.services))
        assert [result["error"] for result in await results(private, batch)] == [None, None]
        assert (await client.delete(path)).status_code in (200, 204)
    assert stored.input_key not in private.storage.objects
