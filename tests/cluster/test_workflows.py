"""Workflows on a real cluster, whose ingress is killed while they run."""

from __future__ import annotations

from typing import Any

import httpx
import psycopg
import pytest

from tests.cluster.darkroom import CALL_S, Darkroom, eventually

pytestmark = [pytest.mark.cluster, pytest.mark.crash]

PROBE, COUNT, WITHIN_S = "test/probe", 4, 240.0
FLOW: dict[str, Any] = {
    "name": "flow",
    "input": {"n": {"type": "integer"}},
    "steps": {
        "draw": {"app": PROBE, "input": {"artifacts": 2, "echo": "$input.n", "steps": 4}},
        "each": {
            "app": PROBE,
            "for_each": "$draw.images",
            "input": {"echo": "$item.url", "steps": 10, "step_ms": 50, "mark": "workflow"},
        },
        "last": {"app": PROBE, "depends": ["each"], "input": {"echo": "$draw.echo"}},
    },
    "output": {"n": "$last.echo", "urls": "$each.*.echo", "first": "$draw.images.0"},
}


@pytest.mark.long
def test_workflows_survive_kills_of_the_ingress_and_run_no_step_twice(darkroom: Darkroom) -> None:
    darkroom.all_ready()
    answer = darkroom.http.post("/v1/workflows", json=FLOW)
    assert answer.status_code == 200, answer.text
    endpoint = answer.json()["endpoint_id"]
    calls = [darkroom.http.post(f"/queue/{endpoint}", json={"n": n}).json() for n in range(COUNT)]
    ids = [entry["request_id"] for entry in calls]
    for least in (1, 3 * COUNT):
        eventually(
            lambda least=least: len(_steps(darkroom, ids)) >= least,
            f"{least} steps are taken",
            WITHIN_S,
        )
        darkroom.replicas("ingress")[0].kill()
        eventually(lambda: darkroom.replicas("ingress"), "the ingress is replaced")
    eventually(lambda: _ended(darkroom, ids) == COUNT, "the workflows have ended", WITHIN_S)
    for n, call in enumerate(calls):
        output = eventually(lambda call=call: _output(darkroom, call), "the output is read")
        assert output["n"] == n
        assert len(output["urls"]) == 2
        file = httpx.get(output["first"]["url"], trust_env=False, timeout=CALL_S)
        assert len(file.content) == output["first"]["file_size"]
    steps = _steps(darkroom, ids)
    assert len(steps) == len(set(steps)) == 4 * COUNT  # each has one request
    keys = [f"{request_id}/%" for request_id in ids]
    ((ran,),) = darkroom.sql("SELECT count(*) FROM idempotency_keys WHERE key LIKE ANY(%s)", keys)
    assert ran == 4 * COUNT
    states = [darkroom.request(request_id) for request_id in ids]
    assert {(state["state"], state["attempt"]) for state in states} == {("succeeded", 1)}


def _output(darkroom: Darkroom, call: dict[str, Any]) -> Any:
    try:
        answer = darkroom.http.get(call["response_url"])
    except httpx.TransportError:
        return None  # the ingress is starting again
    return answer.json() if answer.is_success else None


def _steps(darkroom: Darkroom, ids: list[str]) -> list[str]:
    sql = "SELECT request_id::text FROM workflow_steps WHERE run_id = ANY(%s::uuid[])"
    try:
        return [str(row[0]) for row in darkroom.sql(sql, ids)]
    except psycopg.OperationalError:  # the database starts again with its ingress
        return []


def _ended(darkroom: Darkroom, ids: list[str]) -> int:
    sql = "SELECT count(*) FROM requests WHERE id = ANY(%s::uuid[]) AND outcome IS NOT NULL"
    try:
        return int(darkroom.sql(sql, ids)[0][0])
    except psycopg.OperationalError:
        return 0
