"""Output files of batches whose results are private files: read long after the batch has ended."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

from serve_app.ingress.openai.batches.files import signed_again
from tests.fakes.clock import FakeClock
from tests.ingress.api.files.private import bare, generate, without_key
from tests.ingress.house import ORIGIN, OTHERS, House, build_house
from tests.ingress.openai.batches.test_worker import create_batch, lines, results, run

HOURS_S = 3600.0


async def url_of_image(house: House, batch: str) -> str:
    (line,) = await results(house, batch)
    return str(line["response"]["body"]["data"][0]["url"])


async def status_of(house: House, url: str) -> int:
    """Status that a reader without a key gets."""
    await house.services.files.access.refresh()
    async with without_key(house) as guest:
        return (await guest.get(url)).status_code


async def test_urls_in_an_output_file_work_however_late_it_is_read() -> None:
    clock = FakeClock()
    async with build_house(clock=clock, catalog=OTHERS, files="private") as house:
        batch = await create_batch(house, lines(1))
        await run(house, batch)
        first = await url_of_image(house, batch)
        assert await status_of(house, first) == 200
        clock.advance(20 * HOURS_S)
        assert await status_of(house, first) == 403, "a URL is valid for an hour"
        later = await url_of_image(house, batch)
        assert await status_of(house, later) == 200
        assert bare(later) == bare(first)
        assert await status_of(house, bare(later)) == 403


async def test_urls_of_public_files_have_no_signature_in_an_output_file() -> None:
    async with build_house(catalog=OTHERS) as house:
        batch = await create_batch(house, lines(1))
        await run(house, batch)
        assert "?" not in await url_of_image(house, batch)


async def test_only_urls_of_the_tenants_own_private_files_are_signed_again() -> None:
    async with build_house(files="private") as house:
        async with house.client(house.other_key) as other:
            _, result = await generate(other)
        foreign = bare(result["images"][0]["url"])
        invented = f"{ORIGIN}/files/p/unknown/r/x/1/a.png"
        elsewhere = f"https://example.com/files/{foreign.partition('/files/')[2]}"
        body = json.dumps(
            [foreign, invented, elsewhere, f'see "{foreign}"', f"{foreign} "]
        ).encode()
        access = house.services.files.access
        assert await access.signed_again(body, "default") == body
        own: list[str] = json.loads(await access.signed_again(body, "other"))
        assert ["signature=" in url for url in own] == [True, False, True, False, False]


async def test_urls_are_found_however_an_output_file_is_cut() -> None:
    async with build_house(files="private") as house, house.client() as client:
        _, result = await generate(client)
        access = house.services.files.access
        url = bare(result["images"][0]["url"])
        content = b'{"a": "%b", "b": ["", "%b?expires=1&signature=x"]}\n' % ((url.encode(),) * 2)
        for size in range(1, len(content) + 1):

            async def chunks(size: int = size) -> AsyncIterator[bytes]:
                for at in range(0, len(content), size):
                    yield content[at : at + size]

            pieces = [piece async for piece in signed_again(access, "default", chunks())]
            document: dict[str, Any] = json.loads(b"".join(pieces))
            for file_url in (document["a"], document["b"][1]):
                assert file_url == result["images"][0]["url"]
