"""Whatever dies, what was accepted ends once."""

import concurrent.futures
import signal
import time

import httpx
import psutil
import pytest

from tests.cluster.darkroom import PROBE, Darkroom, eventually

pytestmark = [pytest.mark.cluster, pytest.mark.crash, pytest.mark.timeout(240)]


def _runner_of(darkroom: Darkroom, request_id: str) -> psutil.Process:
    """The process of the replica that runs a request."""
    held = darkroom.in_state(request_id, "running")["replica_id"]
    replicas = darkroom.http.get("/v1/status").json()["replicas"]
    actor = next(one for one in replicas if one["replica_id"] == held)
    return psutil.Process(actor["pid"])


def _both_ready(darkroom: Darkroom) -> None:
    def look() -> bool:
        try:
            pool = darkroom.http.get("/v1/status").json()["pools"]["studio"]
        except (httpx.TransportError, KeyError, ValueError):
            return False
        return bool(pool["replicas"].get("ready") == 2)

    eventually(look, "both replicas are ready", within_s=90)


def test_a_request_outlives_its_replica_and_one_failure_is_counted(darkroom: Darkroom) -> None:
    _both_ready(darkroom)
    request_id = darkroom.submit(steps=60, step_ms=50)
    _runner_of(darkroom, request_id).kill()
    done = darkroom.in_state(request_id, "succeeded")
    assert done["failures"] == 1
    assert done["attempt"] == 2
    assert any("attempt 2" in line["message"].lower() for line in done["log"])


def test_a_request_that_ends_its_replica_every_time_fails_with_that_reason(
    darkroom: Darkroom,
) -> None:
    _both_ready(darkroom)
    request_id = darkroom.submit(steps=10, step_ms=30, crash_at_step=3)
    done = darkroom.in_state(request_id, "failed", within_s=180)
    assert done["failures"] == 3
    assert done["error"]["code"] == "poison"
    _both_ready(darkroom)


def test_an_ingress_killed_loses_nothing_and_a_synchronous_run_stays_readable(
    darkroom: Darkroom,
) -> None:
    _both_ready(darkroom)
    waiting = [darkroom.submit(steps=20, step_ms=50) for _ in range(8)]
    with concurrent.futures.ThreadPoolExecutor(1) as threads:
        run = threads.submit(
            httpx.post,
            f"{darkroom.url}/run/test/probe",
            json={"steps": 40, "step_ms": 50, "mark": "synchronous"},
            headers={"Authorization": f"Key {darkroom.key}"},
            timeout=60,
        )
        eventually(lambda: _by_mark(darkroom, "synchronous"), "the run is stored")
        (ingress,) = darkroom.replicas("ingress")
        ingress.kill()
        answer = run.exception() or run.result()
    assert isinstance(answer, httpx.TransportError) or answer.status_code >= 500
    found = eventually(lambda: _by_mark(darkroom, "synchronous"), "the run can be read")
    for request_id in [*waiting, found]:
        assert darkroom.in_state(request_id, "succeeded")["usage_lines"] == 1


def _by_mark(darkroom: Darkroom, mark: str) -> str | None:
    try:
        answer = darkroom.http.get("/v1/requests", params={"limit": 50})
    except httpx.TransportError:
        return None
    if answer.status_code != 200:
        return None
    for one in answer.json()["requests"]:
        if one["input"].get("mark") == mark:
            return str(one["request_id"])
    return None


def test_postgresql_killed_comes_back_and_nothing_is_lost(darkroom: Darkroom) -> None:
    _both_ready(darkroom)
    requests = [darkroom.submit(steps=20, step_ms=50) for _ in range(6)]
    before = darkroom.postgres()
    before.kill()
    for request_id in requests:
        assert darkroom.in_state(request_id, "succeeded", within_s=90)["usage_lines"] == 1
    assert darkroom.postgres().pid != before.pid


def test_a_replica_that_stops_answering_loses_its_lease_and_cannot_write_later(
    darkroom: Darkroom,
) -> None:
    _both_ready(darkroom)
    request_id = darkroom.submit(steps=40, step_ms=50)
    frozen = _runner_of(darkroom, request_id)
    frozen.send_signal(signal.SIGSTOP)
    try:
        done = darkroom.in_state(request_id, "succeeded", within_s=90)
    finally:
        frozen.send_signal(signal.SIGCONT)
    assert done["attempt"] >= 2
    eventually(lambda: _both_ready(darkroom) is None, "both replicas are ready")
    assert darkroom.request(request_id)["usage_lines"] == 1
    assert darkroom.request(request_id)["attempt"] == done["attempt"]


def test_an_engine_that_stands_still_keeps_its_lease(darkroom: Darkroom) -> None:
    _both_ready(darkroom)
    # Ten leases long: the lease is 6 s here.
    request_id = darkroom.submit(steps=2, step_ms=1, hang_s=60)
    done = darkroom.in_state(request_id, "succeeded", within_s=120)
    assert done["attempt"] == 1
    assert done["failures"] == 0


def test_everything_killed_and_started_again_ends_everything_once(data_dir) -> None:
    darkroom = Darkroom(data_dir, lease_s="6")
    try:
        darkroom.start()
        requests = [darkroom.submit(steps=30, step_ms=50) for _ in range(10)]
        darkroom.in_state(requests[0], "running")
        first_port = darkroom.port
        darkroom.kill_everything()
        began = time.monotonic()
        darkroom.start()
        assert darkroom.port == first_port
        assert time.monotonic() - began < 60
        for request_id in requests:
            done = darkroom.in_state(request_id, "succeeded", within_s=120)
            assert done["usage_lines"] == 1
        assert darkroom.stop(signal.SIGTERM) < 10.0
        assert darkroom.leftovers() == []
    finally:
        for process in darkroom.leftovers():
            process.kill()


def test_two_hundred_requests_with_random_kills_each_end_once(darkroom: Darkroom) -> None:
    _both_ready(darkroom)
    with httpx.Client(headers={"Authorization": f"Key {darkroom.key}"}, timeout=30) as http:
        requests = [
            http.post(f"{darkroom.url}{PROBE}", json={"steps": 3, "step_ms": 20}).json()[
                "request_id"
            ]
            for _ in range(200)
        ]
    for _ in range(3):
        victims = darkroom.replicas("studio")
        if victims:
            victims[0].kill()
        remaining = len(victims)
        eventually(lambda n=remaining: len(darkroom.replicas("studio")) >= n, "it is replaced")
    for request_id in requests:
        done = darkroom.in_state(request_id, "succeeded", "failed", within_s=120)
        assert done["state"] == "succeeded", done
        assert done["usage_lines"] == 1
