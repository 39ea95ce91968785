"""``darkroom shadows``: sums and pairs as text."""

from __future__ import annotations

import json
from typing import Any

from serve_app.cli.administration.shadows import shadow_lines

SIDE = {
    "state": "succeeded",
    "run_s": 1.234,
    "cost": 0.02,
    "currency": "EUR",
    "error": None,
    "files": [{"url": "http://here/files/a.png"}],
}
FAILED = SIDE | {
    "state": "failed",
    "cost": None,
    "error": {"code": "out_of_memory", "message": "The GPU ran out of memory."},
    "files": [],
}
SUMS = {"median_s": 1.2, "failed": 0, "cost": 0.04, "currency": "EUR"}
PAIR = {"endpoint_id": "a/own", "shadow": "a/other", "prompt": "a fox", "reason": ""}


def shadow_report(**pair: Any) -> dict[str, Any]:
    sums = {"endpoint_id": "a/own", "shadow": "a/other", "pairs": 2, "originals": SUMS}
    return {
        "comparisons": [sums | {"copies": SUMS | {"median_s": None, "failed": 2}}],
        "pairs": [PAIR | {"state": "sent", "original": SIDE, "copy": FAILED} | pair],
    }


def test_sums_and_pairs_are_side_by_side() -> None:
    assert [*shadow_lines(shadow_report())] == [
        "a/own beside a/other, 2 pairs in a day",
        "  original  median 1.20 s, 0 failed, 0.04 EUR",
        "  copy      no success, 2 failed, 0.04 EUR",
        "a/own → a/other  a fox",
        "  original  succeeded, 1.23 s, 0.02 EUR, http://here/files/a.png",
        "  copy      failed, 1.23 s, The GPU ran out of memory.",
    ]


def test_a_missing_copy_says_why() -> None:
    skipped = shadow_report(
        state="skipped", copy=None, reason="The budget of copies does not cover it."
    )
    assert [*shadow_lines(skipped)][-1] == (
        "  copy      skipped: The budget of copies does not cover it."
    )
    assert [*shadow_lines(shadow_report(copy=None))][-1] == "  copy      deleted"
    assert [*shadow_lines(shadow_report(copy=None, state="waiting"))][-1] == "  copy      waiting"
    assert next(iter(shadow_lines(shadow_report(), "a/else"))) == "a/own → a/other  a fox"


def test_text_of_strangers_stays_in_its_line_and_commands_no_terminal() -> None:
    error = {"code": "app_failed", "message": "no\x1b]0;title\x07\nfox"}
    lines = [
        *shadow_lines(shadow_report(prompt="a fox\x1b[2J\nok", copy=FAILED | {"error": error}))
    ]
    assert len(lines) == 6
    assert all(line.isprintable() for line in lines)
    assert lines[3] == "a/own → a/other  a fox\N{REPLACEMENT CHARACTER}[2J ok"


def test_an_installation_without_copies_says_so(darkroom: Any) -> None:
    assert darkroom("shadows").output == "No request was copied.\n"
    assert json.loads(darkroom("shadows", "--json").output)["pairs"] == []
