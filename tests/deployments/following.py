"""Worker actors of a replica under a real Ray, without Serve. Rank 0 is an actor in a placement
group.

Runs in its own process, because Ray changes its process too much. Prints one JSON object.
"""

from __future__ import annotations

import json
import tempfile
import threading
from typing import Any

import psutil
import ray
import torch
from ray.exceptions import RayActorError
from ray.util import placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from deployments.engine.engine import Engine
from deployments.families.base import load_families
from deployments.families.registry import FAMILIES
from deployments.replica import weights
from deployments.replica.config import ReplicaConfig
from deployments.replica.ranks import RankGroup
from serve_app.domain.endpoint import Endpoint, StoreConfig, Weights
from serve_app.domain.errors import WeightsUnavailable
from tests.cluster.processes import command_of
from tests.engine.spreadable import DEMO_WAN, video
from weights.store import Store

OPTIONS = {"task": "text-to-video", "dtype": "float32"}
VIDEOS = Endpoint("videos", "video", Weights(str(DEMO_WAN)), "open", OPTIONS)
CONFIG = ReplicaConfig(devices=2, threads=1, device="cpu")


def load_pipeline() -> Any:
    return weights.load(Store(StoreConfig()), load_families(FAMILIES)["video"], VIDEOS, "cpu")


def frames(pipeline: Any) -> torch.Tensor:
    with Engine(pipeline, threads=1) as engine:
        return engine.submit(**video("a red circle moving left", seed=2)).result(100).frames


class Leader:
    def __init__(self) -> None:
        self._followers = RankGroup(CONFIG, FAMILIES, "cpu")

    def start(self) -> None:
        self._followers.start()

    def refusal(self) -> str:
        """Error of a worker that cannot load what it is asked to."""
        missing = Endpoint("videos", "video", Weights("/nowhere"), "open", OPTIONS)
        try:
            self._followers.spread(load_pipeline(), missing, None)
        except WeightsUnavailable as error:
            return error.message
        return ""

    def frames(self) -> torch.Tensor:
        pipeline = load_pipeline()
        self._followers.spread(pipeline, VIDEOS, None)
        return frames(pipeline)

    def rest(self) -> None:
        """Run until the process ends."""
        threading.Event().wait(300)


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="dk") as folder:
        ray.init(
            address="local",
            num_cpus=2,
            include_dashboard=False,
            _temp_dir=folder,
            log_to_driver=False,
        )
        try:
            placed = placement_group([{"CPU": 0.1}] * 2, strategy="STRICT_PACK")
            leader = (
                ray.remote(Leader)
                .options(
                    num_cpus=0.1,
                    max_concurrency=2,
                    scheduling_strategy=PlacementGroupSchedulingStrategy(
                        placed, placement_group_bundle_index=0
                    ),
                )
                .remote()
            )
            ray.get(leader.start.remote())
            refused = ray.get(leader.refusal.remote())
            two = ray.get(leader.frames.remote())
            apart = (two - frames(load_pipeline())).abs().max().item()
            resting = leader.rest.remote()
            (follower,) = [
                child
                for child in psutil.Process().children(recursive=True)
                if "RankActor" in command_of(child)
            ]
            follower.kill()
            try:
                ray.get(resting)
            except RayActorError as error:
                died = type(error).__name__
            else:
                died = ""
            print(json.dumps({"refused": refused, "apart": apart, "died": died}))  # noqa: T201
        finally:
            ray.shutdown()


if __name__ == "__main__":
    main()
