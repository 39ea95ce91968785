"""Progress texts of `darkroom generate` and `darkroom status`."""

import io
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from serve_app.cli.commands.requests import canaries, pool_lines
from serve_app.cli.generation.progress import duration, progress_bar, progress_text, update_bar


def running(**ours: Any) -> dict[str, Any]:
    return {"status": "IN_PROGRESS", "darkroom": ours}


@pytest.mark.parametrize(
    ("status", "words", "done"),
    [
        (
            {"status": "IN_QUEUE", "queue_position": 0, "darkroom": {"reason": "busy"}},
            "waiting for a free slot (position 1)",
            0,
        ),
        (
            {
                "status": "IN_QUEUE",
                "queue_position": 2,
                "darkroom": {"reason": "cold_start", "detail": "loading a/b"},
            },
            "waiting for a replica to start: loading a/b (position 3)",
            0,
        ),
        (
            {
                "status": "IN_QUEUE",
                "queue_position": 0,
                "darkroom": {
                    "reason": "cold_start",
                    "detail": "downloading a/b, 1.0 of 4.0 GB",
                    "stage": "downloading",
                    "share": 0.25,
                },
            },
            (
                "waiting for a replica to start: downloading a/b, 1.0 of 4.0 GB, "
                "25% of downloading (position 1)"
            ),
            0,
        ),
        (
            {
                "status": "IN_QUEUE",
                "queue_position": 0,
                "darkroom": {"reason": "no_replica", "stage": "waiting_for_node", "share": 0.41},
            },
            "waiting for a replica, 41% of waiting for a node (position 1)",
            0,
        ),
        (
            running(stage="downloading", step=3_200_000_000, steps=33_700_000_000),
            "downloading weights, 3.2 of 33.7 GB",
            0,
        ),
        (
            running(stage="loading", step=3_200_000_000, steps=33_700_000_000),
            "loading weights, 3.2 of 33.7 GB",
            0,
        ),
        (running(stage="warming_up", step=0, steps=0), "warming up", 0),
        (
            running(stage="downloading", step=1_000_000_000, steps=3_000_000_000, left_s=99.2),
            "downloading weights, 1.0 of 3.0 GB, 1 min 40 s left",
            0,
        ),
        (running(stage="denoising", step=2, steps=4), "denoising 2/4", 47),
        (
            running(stage="denoising", step=12, steps=40, rate=3.12, left_s=8.97),
            "denoising 12/40, 3.1 steps/s, 9 s left",
            28,
        ),
        (
            running(stage="denoising", step=1, steps=2, rate=0.25, left_s=4.0),
            "denoising 1/2, 4.0 s per step, 4 s left",
            47,
        ),
        (
            running(stage="encoding_media", step=31, steps=81, rate=20.4, left_s=2.45),
            "encoding media 31/81, 20.4 parts/s, 3 s left",
            36,
        ),
        ({"status": "COMPLETED"}, "done", 100),
        ({"status": "COMPLETED", "error": "No."}, "failed", 100),
    ],
)
def test_a_status_is_shown_in_words(status: dict[str, Any], words: str, done: int) -> None:
    assert progress_text(status) == (words, done)


@pytest.mark.parametrize(
    ("reason", "detail", "words"),
    [
        (None, "", "1 of 2 steps done"),
        (
            "paused",
            "",
            "1 of 2 steps done, big: waiting for an operator to resume the endpoint",
        ),
        ("not_accepted", "It is drained.", "1 of 2 steps done, big: It is drained."),
    ],
)
def test_a_workflow_says_how_far_it_is_and_why_a_step_waits(
    reason: str | None, detail: str, words: str
) -> None:
    steps = [
        {"node_id": "draw", "state": "succeeded", "reason": None, "detail": ""},
        {"node_id": "big", "state": "queued", "reason": reason, "detail": detail},
    ]
    assert progress_text(running(workflow={"steps": steps})) == (words, 47)


def test_a_wait_is_reported_with_its_time() -> None:
    soon = (datetime.now(UTC) + timedelta(seconds=40)).isoformat()
    ours = {"reason": "limit", "detail": "", "starts_at": soon}
    words, _ = progress_text({"status": "IN_QUEUE", "queue_position": 1, "darkroom": ours})
    assert words.startswith(
        "waiting because of a limit on running requests (position 2, starts in about "
    )
    assert duration(40.4) == "40 s"
    assert duration(200.0) == "3 min"


def test_a_time_that_is_over_by_this_machine_s_clock_is_soon() -> None:
    ours = {"reason": "busy", "starts_at": datetime(2020, 1, 1, tzinfo=UTC).isoformat()}
    words, _ = progress_text({"status": "IN_QUEUE", "queue_position": 0, "darkroom": ours})
    assert words == "waiting for a free slot (position 1, starts in about 1 s)"


def test_a_pool_shows_what_its_replicas_hold_and_load_and_how_many_it_wants() -> None:
    ready = {"stage": "ready", "detail": "", "node": "10.0.0.7", "device": "NVIDIA L4"}
    starting = {"stage": "starting", "detail": "loading a/b", "node": "", "device": ""}
    replicas = [
        ready
        | {"replica_id": "r1", "hot": ["a/b"], "warm": ["c/d"]}
        | {"memory_used": 18_250_000_000, "memory_total": 24_000_000_000},
        starting | {"replica_id": "r2", "hot": [], "warm": []},
        ready | {"replica_id": "r3", "hot": [], "warm": []},
    ]
    pool = {"queued": 1, "running": 2, "target_replicas": 3}
    shown = [
        "pool flux: 1 queued, 2 running; replicas: 2 ready, 1 starting",
        "  r1 (10.0.0.7, NVIDIA L4, 18.2 of 24.0 GB): hot a/b; in host memory c/d",
        "  r2: loading a/b",
    ]
    assert list(pool_lines("flux", pool, replicas)) == shown
    shown[0] += "; target: 4"
    assert list(pool_lines("flux", pool | {"target_replicas": 4}, replicas)) == shown
    shown[0] = shown[0].replace("pool flux:", "pool flux (overflow of spot):")
    overflow = pool | {"target_replicas": 4, "overflow_of": "spot"}
    assert list(pool_lines("flux", overflow, replicas)) == shown


def test_a_canary_says_how_it_does_beside_its_pool() -> None:
    pool: dict[str, Any] = {"canary_of": None, "canary": "", "returned": False}
    good = pool | {"canary_of": "flux", "canary": "0 of 9 attempts failed (flux: 0 of 30)"}
    bad = pool | {"canary_of": "flux", "canary": "returned because it fails", "returned": True}
    pools = {"flux": pool, "good": good, "bad": bad, "new": pool | {"canary_of": "flux"}}
    assert canaries(pools) == [
        "Canary good of flux: 0 of 9 attempts failed (flux: 0 of 30).",
        "Canary bad of flux: returned because it fails.",
        "Canary new of flux: no attempt has ended yet.",
    ]
    assert canaries(pools, only_returned=True) == ["Canary bad of flux: returned because it fails."]
    assert canaries({"flux": {}}) == []  # of an older server
    shown = pool_lines("good", good | {"queued": 0, "running": 1, "target_replicas": 0}, [])
    assert next(iter(shown)).startswith("pool good (canary of flux): ")


class Terminal(io.StringIO):
    """Remembers what was written to it, as a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("columns", [24, 40, 80, 132])
def test_the_progress_bar_stays_in_one_line_of_the_terminal(columns: int) -> None:
    cold = {"reason": "cold_start", "detail": f"downloading {'owner/name-' * 9}, 1.0 of 4.0 GB"}
    statuses = [
        {"status": "IN_QUEUE", "queue_position": 0, "darkroom": cold},
        running(stage="denoising", step=12, steps=40, rate=3.12, left_s=8.97),
        {"status": "COMPLETED"},
    ]
    terminal = Terminal()
    with progress_bar(terminal, columns) as bar:
        for status in statuses:
            update_bar(bar, status, columns)
    drawn = re.sub(r"\x1b\[[?0-9]*[a-z]", "", terminal.getvalue()).removesuffix("\n")
    first, waits, runs, ends = drawn.split("\r")[1:]
    assert max(map(len, (first, waits, runs, ends))) < columns
    for line, words in {waits: "w…", runs: "de28%", ends: "d100%"}.items():
        assert set(words) <= set(line)
    assert (columns >= 80) == ("denoising 12/40, 3.1 steps/s, 9 s left  [" in runs)
