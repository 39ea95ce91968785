"""Whatever dies, what was accepted ends once."""

import concurrent.futures
import signal
from collections.abc import Iterator

import httpx
import pytest

from tests.cluster.conftest import Check
from tests.cluster.darkroom import (
    CALL_S,
    PROBE,
    Darkroom,
    a_connection_each,
    eventually,
    listeners_outside_loopback,
    living,
)
from tests.cluster.processes import name_of

pytestmark = [pytest.mark.cluster, pytest.mark.crash, pytest.mark.timeout(900)]


def test_a_request_outlives_its_replica_one_failure_is_counted_and_an_operator_sees_it(
    darkroom: Darkroom, check: Check
) -> None:
    darkroom.all_ready()
    before = _events(darkroom)
    request_id = darkroom.submit(steps=180, step_ms=50)
    darkroom.runner(request_id).kill()
    eventually(
        lambda: _seen(darkroom, before, "replica", "ended", "its process ended"),
        "the replica's end is shown",
    )
    done = darkroom.in_state(request_id, "succeeded")
    assert done["failures"] == 1
    assert done["attempt"] == 2
    assert any("attempt 2" in line["message"].lower() for line in done["log"])
    check(darkroom, [request_id])
    darkroom.all_ready()
    eventually(
        lambda: _seen(darkroom, before, "replica", "started"),
        "the start of the next replica is shown",
    )


# That the end of a real replica is one failure is tested above each time, and that the third one
# is the last in tests/crash/test_replicas.py. 35 s of CPU.
@pytest.mark.long
def test_a_request_that_ends_its_replica_every_time_fails_with_that_reason(
    darkroom: Darkroom, check: Check
) -> None:
    darkroom.all_ready()
    request_id = darkroom.submit(steps=40, step_ms=50, crash_at_step=30)
    done = darkroom.in_state(request_id, "failed")
    assert done["failures"] == 3
    assert done["error"]["code"] == "poison"
    check(darkroom, [request_id])
    darkroom.all_ready()


def test_an_ingress_killed_loses_nothing_a_synchronous_run_stays_readable_and_an_operator_sees_it(
    darkroom: Darkroom, check: Check
) -> None:
    darkroom.all_ready()
    before = _events(darkroom)
    waiting = [darkroom.submit(steps=20, step_ms=50) for _ in range(8)]
    with concurrent.futures.ThreadPoolExecutor(1) as threads:
        run = threads.submit(
            httpx.post,
            f"{darkroom.url}/run/test/probe",
            json={"steps": 120, "step_ms": 50, "mark": "synchronous"},
            headers={"Authorization": f"Key {darkroom.key}"},
            timeout=300,
        )
        eventually(lambda: _by_mark(darkroom, "synchronous"), "the run is stored")
        (ingress,) = darkroom.replicas("ingress")
        ingress.kill()
        answer = run.exception() or run.result()
    assert isinstance(answer, httpx.TransportError) or answer.status_code >= 500
    run_id = eventually(lambda: _by_mark(darkroom, "synchronous"), "the run can be read")
    for request_id in [*waiting, run_id]:
        darkroom.in_state(request_id, "succeeded")
    check(darkroom, [*waiting, run_id])
    eventually(
        lambda: _seen(darkroom, before, "ingress", "ended", "its process ended"),
        "the ingress's end is shown",
    )
    eventually(
        lambda: _seen(darkroom, before, "ingress", "started", "had ended: its process ended"),
        "the start of the next one is shown",
    )


def _seen(
    darkroom: Darkroom,
    before: frozenset[tuple[str, str, str, str]],
    kind: str,
    event: str,
    reason: str = "",
) -> bool:
    new = _events(darkroom) - before
    return any(row[1:3] == (kind, event) and reason in row[3] for row in new)


def _events(darkroom: Darkroom) -> frozenset[tuple[str, str, str, str]]:
    """Time, kind, event and reason of what started and ended; none while nothing answers."""
    try:
        shown = darkroom.http.get("/v1/status")
    except httpx.TransportError:
        return frozenset()
    if shown.status_code != 200:
        return frozenset()
    return frozenset(
        (event["at"], event["kind"], event["event"], event["reason"])
        for event in shown.json()["events"]
    )


def _by_mark(darkroom: Darkroom, mark: str) -> str | None:
    rows = darkroom.sql("SELECT id FROM requests WHERE input ->> 'mark' = %s", mark)
    return str(rows[0][0]) if rows else None


def test_postgresql_killed_comes_back_and_nothing_is_lost(darkroom: Darkroom, check: Check) -> None:
    darkroom.all_ready()
    requests = [darkroom.submit(steps=20, step_ms=50) for _ in range(6)]
    before = darkroom.postgres()
    before.kill()
    for request_id in requests:
        darkroom.in_state(request_id, "succeeded")
    check(darkroom, requests)
    assert darkroom.postgres().pid != before.pid


def test_a_replica_that_stops_answering_loses_its_lease_and_cannot_write_later(
    darkroom: Darkroom, check: Check
) -> None:
    darkroom.all_ready()
    request_id = darkroom.submit(steps=120, step_ms=50)
    frozen = darkroom.runner(request_id)
    frozen.send_signal(signal.SIGSTOP)
    try:
        done = darkroom.in_state(request_id, "succeeded")
    finally:
        frozen.send_signal(signal.SIGCONT)
    assert done["attempt"] >= 2
    darkroom.all_ready()
    check(darkroom, [request_id])
    assert darkroom.request(request_id)["attempt"] == done["attempt"]


def test_an_engine_that_stands_still_keeps_its_lease(darkroom: Darkroom) -> None:
    darkroom.all_ready()
    # More than two leases of 6 s: a minute under the default lease of 30 s, which is promised. How
    # many are outlasted is what counts: reports renew them every half second, however long they
    # are.
    request_id = darkroom.submit(steps=2, step_ms=1, hang_s=14)
    done = darkroom.in_state(request_id, "succeeded")
    assert done["attempt"] == 1
    assert done["failures"] == 0


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Darkroom]:
    """Two ingress replicas, for the tests that break more than one may of the shared Darkroom.
    Other machines can reach it."""
    darkroom = Darkroom(
        tmp_path_factory.mktemp("pair") / "data", ingress_replicas="2", lease_s="6", host="::"
    )
    try:
        yield darkroom.start()
    finally:
        darkroom.clear_away()


@pytest.mark.long
def test_only_haproxy_listens_for_other_machines_where_it_is_told_to(pair: Darkroom) -> None:
    # An ingress at such an address could not be told from that of another Darkroom.
    eventually(lambda: len(pair.replicas("ingress")) == 2, "both ingress replicas are there")
    listeners = listeners_outside_loopback(pair)
    assert ("haproxy", pair.port) in listeners
    assert {name for name, _ in listeners} == {"haproxy"}
    assert httpx.get(f"http://[::1]:{pair.port}/readyz", timeout=CALL_S).status_code == 200


@pytest.mark.long
def test_two_ingress_replicas_share_one_queue_and_one_may_die(pair: Darkroom, check: Check) -> None:
    darkroom = pair
    eventually(lambda: len(darkroom.replicas("ingress")) == 2, "both ingress replicas are there")
    darkroom.all_ready(1)
    # A connection each, so that the calls go to both.
    with a_connection_each(darkroom) as http, concurrent.futures.ThreadPoolExecutor(8) as threads:

        def call(number: int) -> int:
            body = {"echo": number, "steps": 2, "step_ms": 5}
            return int(http.post("/run/test/probe", json=body).json()["echo"])

        assert list(threads.map(call, range(40))) == list(range(40))
    requests = [darkroom.submit(steps=10, step_ms=50) for _ in range(8)]
    darkroom.replicas("ingress")[0].kill()
    for request_id in requests:
        done = darkroom.in_state(request_id, "succeeded")
        assert done["failures"] == 0
    check(darkroom, requests)
    eventually(lambda: len(darkroom.replicas("ingress")) == 2, "the dead one is replaced")


@pytest.mark.long
def test_everything_killed_and_started_again_ends_everything_once(
    pair: Darkroom, check: Check
) -> None:
    darkroom = pair
    darkroom.all_ready(1)
    requests = [darkroom.submit(steps=30, step_ms=50) for _ in range(10)]
    darkroom.in_state(requests[0], "running")
    darkroom.kill_everything()
    darkroom.start()
    for request_id in requests:
        darkroom.in_state(request_id, "succeeded")
    check(darkroom, requests)
    # Then its own process alone: what that had started is left, and would be in the way.
    started = darkroom.kill_serve()
    assert {"haproxy", "postgres"} <= {name_of(process) for process in living(started)}
    darkroom.start()
    assert living(started) == []
    darkroom.all_ready(1)  # a call waits for an answer no longer than its client
    assert darkroom.http.post("/run/test/probe", json={"steps": 1}).status_code == 200
    assert darkroom.output.read_text().count(darkroom.key) == 1  # printed by the first start alone
    darkroom.stop(signal.SIGTERM)
    assert darkroom.leftovers() == []


@pytest.mark.long
def test_two_hundred_requests_with_random_kills_each_end_once(
    darkroom: Darkroom, check: Check
) -> None:
    darkroom.all_ready()
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
        done = darkroom.in_state(request_id, "succeeded", "failed")
        assert done["state"] == "succeeded", done
    check(darkroom, requests)
