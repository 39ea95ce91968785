"""What `darkroom generate` says while one waits."""

from typing import Any

import pytest

from serve_app.cli.generate import standing


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
