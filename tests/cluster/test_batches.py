"""A batch of OpenAI's client whose ingress is killed in the middle."""

from __future__ import annotations

import json
import time
from collections import Counter
from typing import Any

import openai
import psycopg
import pytest

from tests.cluster.conftest import Check
from tests.cluster.darkroom import Darkroom, eventually

pytestmark = [pytest.mark.cluster, pytest.mark.crash]

COUNT = 60
RUN: Any = "/run/test/probe"
WITHIN_S = 240.0


@pytest.mark.long
def test_a_batch_survives_kills_of_the_ingress(darkroom: Darkroom, check: Check) -> None:
    darkroom.all_ready()
    rows = [
        {
            "custom_id": f"line {n}",
            "method": "POST",
            "url": RUN,
            "body": {"echo": n, "steps": 4, "step_ms": 50, "mark": "batch"},
        }
        for n in range(COUNT)
    ]
    content = "\n".join(map(json.dumps, rows)).encode()
    base_url = f"{darkroom.url}/openai/v1"
    with openai.OpenAI(base_url=base_url, api_key=darkroom.key, max_retries=10) as client:
        file = client.files.create(file=("prompts.jsonl", content), purpose="batch")
        batch = client.batches.create(input_file_id=file.id, endpoint=RUN, completion_window="24h")
        for share in (1, COUNT // 3):
            eventually(
                lambda least=share: _ended(darkroom, batch.id) >= least,
                f"{share} lines have ended",
                WITHIN_S,
            )
            darkroom.replicas("ingress")[0].kill()
            eventually(lambda: darkroom.replicas("ingress"), "the ingress is replaced")
        until = time.monotonic() + WITHIN_S
        while batch.status != "completed":
            assert time.monotonic() < until, batch
            time.sleep(0.5)
            try:
                batch = client.batches.retrieve(batch.id)
            except openai.APIError:  # the ingress is starting again
                continue
        assert batch.request_counts is not None
        assert (batch.request_counts.completed, batch.request_counts.failed) == (COUNT, 0)
        assert batch.output_file_id is not None
        lines = client.files.content(batch.output_file_id).text.splitlines()
    results = [json.loads(line) for line in lines]
    echoes = {result["custom_id"]: result["response"]["body"]["echo"] for result in results}
    assert echoes == {f"line {n}": n for n in range(COUNT)}
    assert len(results) == COUNT
    stored = darkroom.sql(
        "SELECT request_id::text, key FROM idempotency_keys WHERE key LIKE %s",
        f"{batch.id}/%",
    )
    assert Counter(key for _, key in stored) == Counter(
        f"{batch.id}/line {n}" for n in range(COUNT)
    )
    check(darkroom, [request_id for request_id, _ in stored])


def _ended(darkroom: Darkroom, batch: str) -> int:
    try:
        rows = darkroom.sql("SELECT completed + failed FROM batches WHERE id = %s", batch)
    except psycopg.OperationalError:  # it starts again with its ingress
        return 0
    return int(rows[0][0])
