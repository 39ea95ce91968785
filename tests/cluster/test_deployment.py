"""The deployment class under a real Serve."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def seen():
    done = subprocess.run(
        [sys.executable, "-m", "tests.deployments.serving"],
        capture_output=True,
        text=True,
        timeout=560,
        check=False,
        cwd=ROOT,
        # Ray's workers have the lowest CPU priority, so on a busy machine they hardly run.
        env={**os.environ, "RAY_worker_niceness": "0"},  # noqa: TID251 a child's environment
    )
    assert done.returncode == 0, done.stderr[-4000:]
    # Ray prints lines of its own.
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("{"))
    return json.loads(line)


def test_requests_end_as_they_should(seen):
    assert seen["codes"] == {"ok": "succeeded", "bad": "pipeline_failed", "long": "cancelled"}


def test_an_update_of_the_pool_hands_back_what_runs(seen):
    assert sorted(seen["handed_back"]) == ["a", "b"]


def test_replicas_say_that_they_drain_and_which_actors_they_are(seen):
    # The number is not checked: a report that a busy ingress misses for 2 s is not repeated.
    assert set(seen["stages"]) == {"draining", "starting"}
    assert {len(actor_id) for actor_id in seen["actor_ids"]} == {32}
