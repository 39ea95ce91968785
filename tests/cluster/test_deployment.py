"""The deployment class under a real Serve, without an ingress.

It takes 32 s of CPU. With an ingress, ends of requests are tested each time in test_running.py and
updates of a pool in changing/test_pools.py, and without Serve the hand-back and the stages in
tests/deployments/replica/test_replica.py.
"""

import pytest

from tests.cluster.scenario import seen_by

pytestmark = [pytest.mark.cluster, pytest.mark.long]


@pytest.fixture(scope="module")
def results():
    return seen_by("tests.deployments.serving", 560)


def test_requests_end_as_they_should(results):
    assert results["codes"] == {"ok": "succeeded", "bad": "pipeline_failed", "long": "cancelled"}


def test_an_update_of_the_pool_hands_back_what_runs(results):
    assert sorted(results["handed_back"]) == ["a", "b"]


def test_replicas_say_that_they_drain_and_which_actors_they_are(results):
    # The number is not checked: a report that a busy ingress misses for 2 s is not repeated.
    assert set(results["stages"]) == {"draining", "starting"}
    assert {len(actor_id) for actor_id in results["actor_ids"]} == {32}
