"""Ray Serve, with its batching, in the cluster of a Darkroom and behind the same HAProxy.

Annotations are no strings here: Serve pickles the routes without the names that only annotations
use, and FastAPI then takes a body for a query and answers 422.
"""

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

import ray
from fastapi import FastAPI, Response
from ray import serve

from benchmarks.peers.drawing import Drawing
from benchmarks.wishes import Wish

NAME, PREFIX = "plain", "/plain"

web = FastAPI()


@serve.deployment(num_replicas=1, ray_actor_options={"num_cpus": 0.1}, max_ongoing_requests=256)
@serve.ingress(web)
class Draws:
    """Takes a wish as JSON, gives a PNG file."""

    def __init__(self, threads: int, batch: int, wait_s: float) -> None:
        self._drawing = Drawing(threads)
        self._together.set_max_batch_size(batch)
        self._together.set_batch_wait_timeout_s(wait_s)

    @web.post("/draw")
    async def draw(self, wanted: dict[str, Any]) -> Response:
        return Response(await self._together(Wish.of_json(wanted)), media_type="image/png")

    @serve.batch(max_batch_size=16)
    async def _together(self, wanted: list[Wish]) -> list[bytes]:
        # On a thread: requests go on coming in meanwhile, and make the next batch.
        return await asyncio.to_thread(self._drawing.draw, wanted)


def deploy(ray_address: str, config: Mapping[str, Any]) -> None:
    """Beside whatever Serve serves in the cluster at ``ray_address``."""
    ray.init(address=ray_address, logging_level=logging.WARNING, log_to_driver=False)
    application = Draws.bind(config["threads"], config["batch"], config["wait_ms"] / 1000)
    serve.run(application, name=NAME, route_prefix=PREFIX)
