"""Clients that want images, one after the other, and how long they wait for them."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Protocol

import fal_client
import httpx2

import fal_plain_http
from benchmarks.wishes import SIDE, Wish

ENDPOINTS = {"flux": "fal-ai/flux/dev", "sdxl": "fal-ai/fast-sdxl"}


class Draw(Protocol):
    async def __call__(self, wish: Wish) -> bytes:
        """The PNG file, on this side."""
        ...


Client = Callable[[], AbstractAsyncContextManager[Draw]]
"""One for each who waits: with its own connections."""


@dataclass(frozen=True)
class Waits:
    """Seconds that one turn took: in all, and for each image."""

    took_s: float
    each_s: list[float]
    files: dict[Wish, bytes]


def measure(client: Client, wanted: Sequence[Wish], clients: int) -> Waits:
    """Each of ``clients`` takes the next of ``wanted`` as soon as it has its last image."""
    return asyncio.run(_measure(client, wanted, clients))


async def _measure(client: Client, wanted: Sequence[Wish], clients: int) -> Waits:
    waiting = iter(wanted)
    each_s: list[float] = []
    files: dict[Wish, bytes] = {}

    async def take_turns(ready: asyncio.Barrier) -> None:
        async with client() as draw:
            await ready.wait()
            for wish in waiting:
                began = time.perf_counter()
                files[wish] = await draw(wish)
                each_s.append(time.perf_counter() - began)

    ready = asyncio.Barrier(clients + 1)
    tasks = [asyncio.create_task(take_turns(ready)) for _ in range(clients)]
    await ready.wait()
    began = time.perf_counter()
    await asyncio.gather(*tasks)
    return Waits(time.perf_counter() - began, each_s, files)


def of_fal(url: str, key: str) -> Client:
    """fal's own client: ``run``, and then the image is fetched from the URL in the answer."""
    fal_plain_http.use(url)

    @asynccontextmanager
    async def client() -> AsyncIterator[Draw]:
        fal = fal_client.AsyncClient(key=key, default_timeout=600)
        async with httpx2.AsyncClient(timeout=60) as http:

            async def draw(wish: Wish) -> bytes:
                output = await fal.run(ENDPOINTS[wish.model], _input_of(wish))
                return await _read(await http.get(output["images"][0]["url"]))

            yield draw

    return client


def _input_of(wish: Wish) -> dict[str, object]:
    format_field = "output_format" if wish.model == "flux" else "format"
    return {
        "prompt": wish.prompt,
        "num_inference_steps": wish.steps,
        "seed": wish.seed,
        "image_size": {"width": SIDE, "height": SIDE},
        format_field: "png",
    }


def of_http(url: str, *, listed: bool = False) -> Client:
    """A wish as JSON by POST. ``listed``: lists of them, answered with files in base64."""

    @asynccontextmanager
    async def client() -> AsyncIterator[Draw]:
        async with httpx2.AsyncClient(timeout=600) as http:

            async def draw(wish: Wish) -> bytes:
                if not listed:
                    return await _read(await http.post(url, json=wish.as_json()))
                answer = await http.post(url, json={"wanted": [wish.as_json()]})
                await _read(answer)
                return base64.b64decode(answer.json()[0])

            yield draw

    return client


async def _read(answer: httpx2.Response) -> bytes:
    if not answer.is_success:
        raise RuntimeError(f"{answer.url} answered {answer.status_code}: {answer.text[:300]}")
    return await answer.aread()
