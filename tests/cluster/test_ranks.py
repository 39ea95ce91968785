"""Worker ranks of a replica, as actors of a real Ray."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.cluster, pytest.mark.crash, pytest.mark.timeout(300)]

ROOT = Path(__file__).parents[2]
# Ray's workers have the lowest CPU priority, so on a busy machine they hardly run.
QUICK = {"GLOO_SOCKET_IFNAME": "lo", "RAY_worker_niceness": "0"}


@pytest.fixture(scope="module")
def seen():
    done = subprocess.run(
        [sys.executable, "-m", "tests.deployments.following"],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
        cwd=ROOT,
        env={**os.environ, **QUICK},  # noqa: TID251 a child's environment
    )
    assert done.returncode == 0, done.stderr[-4000:]
    # Ray prints lines of its own.
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("{"))
    return json.loads(line)


def test_a_video_of_a_replica_with_two_devices_is_that_of_one(seen):
    assert seen["apart"] <= 1e-5


def test_a_failed_load_of_a_follower_is_reported_as_the_replicas_own_would_be(seen):
    assert "/nowhere" in seen["refused"]


def test_a_replica_ends_when_one_of_its_devices_is_killed(seen):
    assert seen["died"] == "ActorDiedError"
