"""Scaling and redeploying while requests run."""

import pytest

from tests.cluster.changing.conftest import WithPool, probe_pool
from tests.cluster.conftest import Check
from tests.cluster.darkroom import PROBE, eventually, living

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900), pytest.mark.long]


def test_scale_down_and_redeploy_under_load_fail_nothing(with_pool: WithPool, check: Check) -> None:
    darkroom = with_pool(probe_pool(2))
    darkroom.all_ready(2)
    requests = [darkroom.submit(steps=20, step_ms=50) for _ in range(12)]
    darkroom.in_state(requests[3], "running")
    darkroom.configure(pools={"studio": probe_pool(1)})
    requests += [darkroom.submit(steps=20, step_ms=50) for _ in range(4)]
    eventually(lambda: len(darkroom.replicas()) == 1, "one replica is left")
    # Another number of slots is another configuration of the replica: it is replaced.
    (replaced,) = darkroom.replicas()
    darkroom.configure(pools={"studio": probe_pool(1, slots=3)})
    eventually(lambda: not living([replaced]), "the replica is replaced")
    for request_id in requests:
        done = darkroom.in_state(request_id, "succeeded", "failed")
        assert done["state"] == "succeeded", done
        assert done["failures"] == 0, done
    check(darkroom, requests)


def test_a_pool_at_zero_gets_a_replica_for_a_warm_target_until_it_ends(with_pool: WithPool) -> None:
    darkroom = with_pool(probe_pool(0) | {"max_replicas": 2, "keep_alive_s": 1})
    eventually(lambda: not darkroom.replicas(), "no replica is left")
    wish = {"endpoint_id": "test/probe", "replicas": 1}
    assert darkroom.http.post("/v1/warm", json=wish).json()["ready_replicas"] == 0

    def ready() -> bool:
        (target,) = darkroom.http.get("/v1/warm").json()["warm_targets"]
        return target["ready_replicas"] == 1

    eventually(ready, "a replica holds the weights")
    status = darkroom.http.get("/v1/status").json()
    pool = status["pools"]["studio"]
    assert (pool["target_replicas"], pool["warm_replicas"], pool["queued"]) == (1, 1, 0)
    (holder,) = [replica for replica in status["replicas"] if replica["stage"] == "ready"]
    assert (holder["hot"], holder["keep"]) == (["test/probe"], [["test/probe", "hot"]])
    assert holder["node"]
    assert darkroom.http.delete("/v1/warm/test/probe").status_code == 204
    eventually(lambda: not darkroom.replicas(), "the pool is at zero again")


# That an idle pool goes to zero is tested above each time, that a request starts one at zero in
# ../test_apps.py, and what it waits for in tests/contract/test_standing_contract.py.
def test_a_pool_goes_to_zero_when_idle_and_comes_back_for_a_request(with_pool: WithPool) -> None:
    darkroom = with_pool(probe_pool(0) | {"max_replicas": 2, "keep_alive_s": 3})
    eventually(lambda: darkroom.replicas() == [], "the idle pool has no replica")
    request_id = darkroom.submit(steps=20, step_ms=50)
    seen = darkroom.request(request_id)
    assert seen["state"] == "queued"
    assert seen["waiting"]["reason"] in {"no_replica", "cold_start"}
    eventually(
        lambda: (darkroom.request(request_id)["waiting"] or {}).get("reason") != "no_replica",
        "the request says that a replica starts",
    )
    darkroom.in_state(request_id, "succeeded")
    eventually(lambda: darkroom.replicas() == [], "it goes back to zero")


def test_a_pool_shrinks_while_a_request_runs_which_goes_on_elsewhere(with_pool: WithPool) -> None:
    darkroom = with_pool(
        probe_pool(1, slots=1) | {"max_replicas": 2, "keep_alive_s": 4, "target_wait_s": 0}
    )
    first = darkroom.submit(steps=100_000, step_ms=50)
    darkroom.in_state(first, "running")
    # It runs on the second replica, which is the one that Serve stops.
    second = darkroom.submit(steps=100_000, step_ms=50)
    darkroom.all_ready(2)
    darkroom.in_state(second, "running")
    darkroom.http.put(f"{PROBE}/requests/{first}/cancel")
    eventually(lambda: len(darkroom.replicas()) == 1, "one replica is left")
    eventually(
        lambda: darkroom.in_state(second, "running")["attempt"] > 1,
        "it runs on the replica that is left",
    )
    assert darkroom.request(second)["failures"] == 0
    darkroom.http.put(f"{PROBE}/requests/{second}/cancel")
