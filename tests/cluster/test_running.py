"""What a running Darkroom does, seen from outside."""

import concurrent.futures
import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.cluster.darkroom import (
    CALL_S,
    PROBE,
    ROOT,
    Darkroom,
    a_connection_each,
    eventually,
    listeners_outside_loopback,
)

UNMODIFIED = ROOT / "tests" / "wire" / "unmodified.py"

DEPLOYMENTS_LINE = re.compile(
    r"^\S+Z [A-Z]+ +(deployments\.\S+)(?: \[(\S+)\])? (.+)$", re.MULTILINE
)
OF_A_REPLICA = ("Replica ", "The ingress ")  # how lines begin that are about no request

pytestmark = pytest.mark.cluster


def test_two_replicas_share_the_work(darkroom: Darkroom) -> None:
    darkroom.all_ready()
    requests = [darkroom.submit(steps=10, step_ms=50) for _ in range(8)]
    replicas = {darkroom.in_state(request_id, "succeeded")["replica_id"] for request_id in requests}
    assert len(replicas) == 2


def test_a_running_request_that_is_cancelled_frees_its_slot_at_its_next_step(
    darkroom: Darkroom,
) -> None:
    darkroom.all_ready()
    # Every slot is taken, for longer than this test may last.
    running = [darkroom.submit(steps=100_000, step_ms=20) for _ in range(4)]
    for request_id in running:
        darkroom.in_state(request_id, "running")
    next_one = darkroom.submit(steps=1)
    waiting = darkroom.request(next_one)
    assert waiting["state"] == "queued"
    assert waiting["waiting"]["reason"] == "busy"
    answer = darkroom.http.put(f"{PROBE}/requests/{running[0]}/cancel")
    assert answer.json() == {"status": "CANCELLATION_REQUESTED"}
    darkroom.in_state(next_one, "succeeded")
    assert darkroom.in_state(running[0], "cancelled")["attempt"] == 1
    for request_id in running[1:]:
        darkroom.http.put(f"{PROBE}/requests/{request_id}/cancel")
        darkroom.in_state(request_id, "cancelled")


def test_a_queued_request_that_is_cancelled_never_starts(darkroom: Darkroom) -> None:
    darkroom.all_ready()
    running = [darkroom.submit(steps=100_000, step_ms=20) for _ in range(4)]
    for request_id in running:
        darkroom.in_state(request_id, "running")
    queued = darkroom.submit(steps=1)
    assert darkroom.http.put(f"{PROBE}/requests/{queued}/cancel").json() == {"status": "OK"}
    cancelled = darkroom.in_state(queued, "cancelled")
    assert cancelled["attempt"] == 0
    for request_id in running:
        darkroom.http.put(f"{PROBE}/requests/{request_id}/cancel")
        darkroom.in_state(request_id, "cancelled")


def test_an_artifact_has_a_stable_url_with_type_length_etag_and_ranges(darkroom: Darkroom) -> None:
    body = {"artifacts": 1, "content": "0123456789"}
    output = darkroom.http.post("/run/test/probe", json=body).json()
    url = output["images"][0]["url"]
    whole = httpx.get(url, timeout=CALL_S)
    assert whole.content == b"0123456789"
    assert whole.headers["content-length"] == "10"
    assert httpx.get(url, headers={"range": "bytes=2-4"}, timeout=CALL_S).content == b"234"
    again = httpx.get(url, headers={"if-none-match": whole.headers["etag"]}, timeout=CALL_S)
    assert again.status_code == 304
    directory, _, name = url.rpartition("/")
    assert len(name.partition(".")[0]) >= 22  # 128 random bits
    assert httpx.get(f"{directory}/{'A' * 22}.bin", timeout=CALL_S).status_code == 404


def test_nothing_listens_outside_loopback(darkroom: Darkroom) -> None:
    darkroom.all_ready()
    assert listeners_outside_loopback(darkroom) == set()


def test_replicas_on_this_machine_call_over_a_line(darkroom: Darkroom) -> None:
    (ingress,) = darkroom.replicas("ingress")
    folder = darkroom.data_dir / "lines"

    def connected() -> bool:
        at = [str(connection.laddr) for connection in ingress.net_connections("unix")]
        return sum(path.startswith(str(folder)) for path in at) > 1  # one listens

    assert folder.stat().st_mode & 0o777 == 0o700
    eventually(connected, "a replica is at the line")
    assert darkroom.http.post("/run/test/probe", json={"steps": 1}).status_code == 200


def test_the_first_key_is_readable_by_its_owner_only_and_printed_once(darkroom: Darkroom) -> None:
    assert (darkroom.data_dir / "api_key").stat().st_mode & 0o077 == 0
    assert darkroom.output.read_text().count(darkroom.key) == 1


def test_a_shell_that_darkroom_env_has_set_up_runs_what_was_written_for_fal(
    darkroom: Darkroom,
) -> None:
    variables = json.loads(darkroom.command("env", "--json").stdout)["variables"]
    done = subprocess.run(
        [sys.executable, UNMODIFIED],
        env={"PATH": os.defpath, **variables},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    outcomes = {line["name"]: line for line in map(json.loads, done.stdout.splitlines())}
    assert (outcomes["run"].get("value"), outcomes["subscribe"].get("value")) == (1, 2), outcomes
    assert outcomes["cancel"]["value"] == "client_cancelled"


def test_metrics_are_served_on_loopback(darkroom: Darkroom) -> None:
    log = (darkroom.data_dir / "logs" / "darkroom.log").read_text()
    address = re.findall(r"metrics are at (http://127\.0\.0\.1:\d+/metrics)", log)[-1]
    darkroom.http.post("/run/test/probe", json={})
    text = httpx.get(address, timeout=CALL_S).text
    assert "darkroom_http_seconds_count" in text
    assert re.search(r'darkroom_requests_total\{endpoint="test/probe",state="succeeded"\}', text)


def test_one_request_id_runs_through_every_log_line_of_a_request(darkroom: Darkroom) -> None:
    darkroom.all_ready()
    log = darkroom.data_dir / "logs" / "darkroom.log"
    before = len(log.read_text())
    image = darkroom.http.post("/run/fal-ai/flux/schnell", json={"prompt": "a red circle"})
    failed = darkroom.http.post("/run/test/probe", json={"fail": "No paint."})
    ids = {response.headers["x-fal-request-id"] for response in (image, failed)}
    assert len(ids) == 2

    def lines() -> list[tuple[str, str, str]]:
        """Logger, request and message, of what replicas have logged since."""
        return DEPLOYMENTS_LINE.findall(log.read_text()[before:])

    def ended() -> set[str]:
        return {about for _, about, message in lines() if "attempt 1 " in message}

    eventually(lambda: ended() >= ids, "the replicas say how both ended")
    about_none = [line for line in lines() if not line[1] and not line[2].startswith(OF_A_REPLICA)]
    assert not about_none


def test_calls_reach_the_application_without_serves_wrapper(darkroom: Darkroom) -> None:
    darkroom.all_ready()
    answer = darkroom.http.post("/run/test/probe", json={"echo": 1})
    # Serve's wrapper adds an id of its own to each response.
    assert answer.headers.get_list("x-request-id") == [answer.headers["x-fal-request-id"]]


def test_many_clients_at_once_all_get_their_own_answer(darkroom: Darkroom) -> None:
    darkroom.all_ready()
    with a_connection_each(darkroom) as http, concurrent.futures.ThreadPoolExecutor(16) as threads:

        def call(number: int) -> int:
            return int(http.post("/run/test/probe", json={"echo": number}).json()["echo"])

        assert list(threads.map(call, range(200))) == list(range(200))


def test_a_second_start_on_the_same_directory_is_refused_in_a_sentence(
    darkroom: Darkroom,
) -> None:
    result = darkroom.command("serve")
    assert result.returncode == 1
    assert "Another Darkroom" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.long
def test_a_taken_port_is_refused_in_a_sentence(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        other = Darkroom(tmp_path / "data")
        result = other.command("serve", "--port", str(taken.getsockname()[1]))
    assert result.returncode == 1
    assert "is in use by another program" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.long
def test_the_command_line_makes_and_revokes_keys(darkroom: Darkroom) -> None:
    key = darkroom.command("keys", "create", "the web app", "--expires-in", "1d").stdout.strip()
    answer = httpx.get(
        f"{darkroom.url}/v1/requests", headers={"Authorization": f"Key {key}"}, timeout=CALL_S
    )
    assert answer.status_code == 200
    key_id = key.partition(":")[0]
    assert "the web app" in darkroom.command("keys", "list").stdout
    assert "is revoked" in darkroom.command("keys", "revoke", key_id).stdout
    shown = darkroom.command("keys", "list").stdout.splitlines()
    assert "revoked" in next(line for line in shown if line.startswith(key_id))


def test_the_command_line_shows_lists_and_cancels(darkroom: Darkroom) -> None:
    darkroom.all_ready()
    assert "is ready" in darkroom.command("doctor").stdout
    assert "test/probe" in darkroom.command("models").stdout
    status = darkroom.command("status").stdout
    assert "2 ready" in status
    assert "migrations: ok" in status
    request_id = darkroom.submit(steps=10_000, step_ms=20)
    darkroom.in_state(request_id, "running")
    assert request_id in darkroom.command("requests", "list", "--state", "running").stdout
    assert darkroom.command("requests", "cancel", request_id).stdout.strip() == "requested"
    darkroom.in_state(request_id, "cancelled")
    assert "Queued." in darkroom.command("requests", "show", request_id).stdout
    environment = darkroom.command("env", "--mode", "plain").stdout
    assert f"export FAL_KEY='{darkroom.key}'" in environment
    assert f"fal_plain_http.use('{darkroom.url}')" in environment
