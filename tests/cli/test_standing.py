"""What `darkroom generate` and `darkroom status` say while one waits."""

from typing import Any

import pytest

from serve_app.cli.generate import standing
from serve_app.cli.listing import pool_lines


def running(**ours: Any) -> dict[str, Any]:
    return {"status": "IN_PROGRESS", "darkroom": ours}


@pytest.mark.parametrize(
    ("status", "words", "done"),
    [
        (
            {"status": "IN_QUEUE", "queue_position": 0, "darkroom": {"reason": "busy"}},
            "waiting for a free slot (place 1)",
            0,
        ),
        (
            {
                "status": "IN_QUEUE",
                "queue_position": 2,
                "darkroom": {"reason": "cold_start", "detail": "loading a/b"},
            },
            "waiting for a replica to start: loading a/b (place 3)",
            0,
        ),
        (
            running(stage="downloading", step=3_200_000_000, steps=33_700_000_000),
            "downloading weights, 3.2 of 33.7 GB",
            0,
        ),
        (running(stage="warming_up", step=0, steps=0), "warming up", 0),
        (running(stage="denoising", step=2, steps=4), "denoising", 47),
        ({"status": "COMPLETED"}, "done", 100),
        ({"status": "COMPLETED", "error": "No."}, "failed", 100),
    ],
)
def test_a_status_is_told_in_words(status: dict[str, Any], words: str, done: int) -> None:
    assert standing(status) == (words, done)


def test_a_pool_tells_what_its_replicas_load() -> None:
    replicas = [
        {"replica_id": "r1", "stage": "ready", "detail": ""},
        {"replica_id": "r2", "stage": "starting", "detail": "loading a/b"},
    ]
    assert list(pool_lines("flux", {"queued": 1, "running": 2}, replicas)) == [
        "pool flux: 1 queued, 2 running; replicas: 1 ready, 1 starting",
        "  r2: loading a/b",
    ]
