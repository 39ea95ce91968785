"""Operator commands as typed by a user, against a Darkroom with fakes behind real HTTP."""

import json
import re
from typing import Any

import httpx

from serve_app.cli.commands.operations import queue_lines
from tests.wire.served import Address

PROBE = "test/probe"


def submit_probe(address: Address, key: str = "") -> str:
    headers = {"Authorization": f"Key {key or address.key}"}
    answer = httpx.post(f"{address.url}/queue/{PROBE}", headers=headers, json={}, trust_env=False)
    return str(answer.json()["request_id"])


def test_an_endpoint_is_paused_drained_and_resumed(darkroom: Any) -> None:
    assert darkroom("endpoints", "pause", PROBE).stdout == "test/probe is paused.\n"
    assert "endpoint test/probe: paused since " in darkroom("queue").stdout
    assert darkroom("endpoints", "drain", PROBE).stdout == "test/probe is draining.\n"
    assert darkroom("endpoints", "resume", PROBE).stdout == "test/probe is resumed.\n"
    assert "neither paused" in darkroom("endpoints", "resume", PROBE, fails=True).stderr
    acts = json.loads(darkroom("audit", "--limit", "3", "--json").stdout)["acts"]
    assert [act["action"] for act in acts] == [
        "endpoint.resume", "endpoint.drain", "endpoint.pause",
    ]  # fmt: skip


def test_a_request_is_requeued_and_failed(darkroom: Any, address: Address) -> None:
    request_id = submit_probe(address)
    assert darkroom("requests", "requeue", request_id).stdout == "The request is queued.\n"
    reason = "It hangs & burns?"
    failed = darkroom("requests", "fail", request_id, "--reason", reason)
    assert failed.stdout == "The request is failed.\n"
    assert "ended already" in darkroom("requests", "fail", request_id, fails=True).stderr
    assert reason in darkroom("requests", "show", request_id).stdout
    assert f"request.fail  {request_id}" in darkroom("audit").stdout


def test_an_operator_cancels_a_request_of_another_tenant(darkroom: Any, address: Address) -> None:
    created = darkroom("keys", "create", "theirs", "--tenant", "studio-a", "--json").stdout
    request_id = submit_probe(address, json.loads(created)["key"])
    assert "no request" in darkroom("requests", "cancel", request_id, fails=True).stderr
    command = ("requests", "cancel", request_id, "--tenant", "studio-a")
    assert darkroom(*command).stdout == "cancelled\n"


def test_a_request_gets_another_priority(darkroom: Any, address: Address) -> None:
    request_id = submit_probe(address)
    changed = darkroom("requests", "priority", request_id, "low")
    assert changed.stdout == "The request has low priority.\n"
    assert (
        json.loads(darkroom("requests", "show", request_id, "--json").stdout)["priority"] == "low"
    )
    assert "urgent" in darkroom("requests", "priority", request_id, "urgent", fails=True).stderr


def test_the_queue_is_shown_as_json(darkroom: Any) -> None:
    seen = json.loads(darkroom("queue", "--json").stdout)
    assert seen.keys() == {"lanes", "leases", "halts", "oldest_transaction"}


def test_the_queue_is_shown_in_words() -> None:
    lane = {"pool": "studio", "tenant": "ann", "queued": 3, "running": 1, "oldest_s": 12.4}
    lease = {"request_id": "r", "endpoint": PROBE, "attempt": 2, "age_s": 3.6, "replica_id": "r7"}
    oldest = {"age_s": 61.25, "state": "idle in transaction", "application": "psql", "pid": 7}
    seen = {"lanes": [lane], "leases": [lease], "halts": [], "oldest_transaction": oldest}
    assert list(queue_lines(seen)) == [
        "pool studio, tenant ann: 3 queued, oldest 12 s; 1 running",
        "r  test/probe: attempt 2 for 4 s on r7",
        "oldest database transaction: 61.2 s, idle in transaction (psql, process 7)",
    ]
    short = oldest | {"age_s": -0.01}  # clocks of the database's processes differ
    for transaction in (None, short):
        nothing = {"lanes": [], "leases": [], "halts": [], "oldest_transaction": transaction}
        assert list(queue_lines(nothing)) == ["No requests are queued or running."]


def test_an_endpoint_is_kept_warm_for_a_time(darkroom: Any) -> None:
    assert darkroom("warm", "list").stdout == "No model is kept warm.\n"
    options = ("--replicas", "2", "--for", "30m", "--level", "host")
    assert "\nUntil     20" in darkroom("warm", "set", PROBE, *options).stdout
    listed = darkroom("warm", "list").stdout
    assert re.search(r"\ntest/probe +studio +host +0 +2 +20\d\d-.* operator +–\n", listed)
    assert listed in darkroom("status").stdout
    deleted = darkroom("warm", "delete", PROBE).stdout
    assert deleted == "The warm target test/probe is deleted.\n"
    assert json.loads(darkroom("warm", "list", "--json").stdout)["warm_targets"] == []
    for absent in (PROBE, "house/nothing"):
        refused = darkroom("warm", "delete", absent, fails=True).stderr
        assert refused.startswith(f"darkroom: There is no warm target {absent}. ")


def test_a_time_without_a_unit_is_refused(darkroom: Any) -> None:
    assert "such as 30m" in darkroom("warm", "set", PROBE, "--for", "30", fails=True).stderr
