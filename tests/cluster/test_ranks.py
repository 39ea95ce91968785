"""Worker ranks of a replica, as actors of a real Ray."""

import pytest

from tests.cluster.scenario import seen_by

pytestmark = [pytest.mark.cluster, pytest.mark.crash, pytest.mark.long]


@pytest.fixture(scope="module")
def results():
    return seen_by("tests.deployments.following", 800, GLOO_SOCKET_IFNAME="lo")


def test_a_video_of_a_replica_with_two_devices_is_that_of_one(results):
    assert results["apart"] <= 1e-5


def test_a_failed_load_of_a_follower_is_reported_as_the_replicas_own_would_be(results):
    assert "/nowhere" in results["refused"]


def test_a_replica_ends_when_one_of_its_devices_is_killed(results):
    assert results["died"] == "ActorDiedError"
