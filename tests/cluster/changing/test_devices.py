"""A pool whose replicas have two devices each: here two processes, on CPUs."""

from __future__ import annotations

import httpx
import psutil
import pytest

from tests.cluster.changing.conftest import WithPool
from tests.cluster.darkroom import Darkroom, eventually
from tests.cluster.processes import command_of

pytestmark = [pytest.mark.cluster, pytest.mark.crash, pytest.mark.timeout(900)]

ENDPOINT = "fal-ai/wan/v2.2-5b/text-to-video"
POOL = {"families": ["video"], "num_cpus": 0.1, "threads": 1, "devices_per_replica": 2}


def _submit(darkroom: Darkroom, steps: int) -> str:
    body = {"prompt": "a red circle moving left", "seed": 7, "num_inference_steps": steps}
    answer = darkroom.http.post(f"/queue/{ENDPOINT}", json=body)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["request_id"])


def _followers(darkroom: Darkroom) -> list[psutil.Process]:
    children = darkroom.process.children(recursive=True)
    return [child for child in children if "ray::RankActor" in command_of(child)]


@pytest.mark.long
def test_two_devices_make_a_video_and_make_another_when_one_of_them_has_died(
    with_pool: WithPool,
) -> None:
    darkroom = with_pool(POOL, ENDPOINT)
    request = darkroom.in_state(_submit(darkroom, 4), "succeeded", "failed")
    assert request["state"] == "succeeded", request
    output = darkroom.http.get(f"/queue/fal-ai/wan/requests/{request['request_id']}").json()
    assert httpx.get(output["video"]["url"]).content[4:8] == b"ftyp"
    (follower,) = _followers(darkroom)

    request_id = _submit(darkroom, 30)
    eventually(
        lambda: (darkroom.request(request_id)["progress"] or {}).get("step"), "it has a step"
    )
    follower.kill()
    done = darkroom.in_state(request_id, "succeeded", "failed")
    assert (done["state"], done["failures"]) == ("succeeded", 1), done
