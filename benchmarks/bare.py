"""The least that an HTTP route on Ray Serve can be: what Darkroom is compared with."""

from __future__ import annotations

import ray
from fastapi import FastAPI
from ray import serve

NAME, PREFIX = "bare", "/bare"

web = FastAPI()


@serve.deployment(num_replicas=1, ray_actor_options={"num_cpus": 0.1}, max_ongoing_requests=10_000)
@serve.ingress(web)
class Bare:
    """Answers a POST with a small JSON."""

    @web.post("/noop")
    async def noop(self, body: dict[str, object]) -> dict[str, object]:
        return {"seed": 1, "steps": body.get("steps", 0)}


def deploy(ray_address: str) -> None:
    """Beside whatever Serve serves in the cluster at ``ray_address``."""
    ray.init(address=ray_address, logging_level="WARNING", log_to_driver=False)
    serve.run(Bare.bind(), name=NAME, route_prefix=PREFIX)
