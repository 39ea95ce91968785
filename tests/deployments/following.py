"""A replica's followers under a real Ray, without Serve: an actor in a placement group is rank 0.

A process of its own: Ray changes too much of the one that it runs in. Prints one JSON object.
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

from deployments import loading
from deployments.engine.engine import Engine
from deployments.families import FAMILIES
from deployments.family import load_families
from deployments.followers import Followers
from deployments.replica_config import ReplicaConfig
from serve_app.domain.endpoint import Endpoint, Weights
from serve_app.domain.errors import WeightsUnavailable
from serve_app.domain.store_config import StoreConfig
from tests.engine.spreadable import DEMO_WAN, clip
from weights.store import Store

OPTIONS = {"task": "text-to-video", "dtype": "float32"}
CLIPS = Endpoint("clips", "video", Weights(str(DEMO_WAN)), "open", OPTIONS)
CONFIG = ReplicaConfig(devices=2, threads=1, device="cpu")


def loaded() -> Any:
    return loading.load(Store(StoreConfig()), load_families(FAMILIES)["video"], CLIPS, "cpu")


def frames(pipeline: Any) -> torch.Tensor:
    with Engine(pipeline, threads=1) as engine:
        return engine.submit(**clip("a red circle moving left", seed=2)).result(100).frames


class Leader:
    def __init__(self) -> None:
        self._followers = Followers(CONFIG, FAMILIES, "cpu")

    def start(self) -> None:
        self._followers.start()

    def refused(self) -> str:
        """What one says that cannot load what it is told to."""
        missing = Endpoint("clips", "video", Weights("/nowhere"), "open", OPTIONS)
        try:
            self._followers.spread(loaded(), missing, None)
        except WeightsUnavailable as error:
            return error.message
        return ""

    def frames(self) -> torch.Tensor:
        pipeline = loaded()
        self._followers.spread(pipeline, CLIPS, None)
        return frames(pipeline)

    def rest(self) -> None:
        """Until the process ends."""
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
            refused = ray.get(leader.refused.remote())
            two = ray.get(leader.frames.remote())
            apart = (two - frames(loaded())).abs().max().item()
            resting = leader.rest.remote()
            (follower,) = [
                each
                for each in psutil.Process().children(recursive=True)
                if "FollowerActor" in " ".join(each.cmdline())
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
