"""Outcomes survive a round trip through the database."""

from __future__ import annotations

import json

from serve_app.domain.artifact import Artifact
from serve_app.domain.outcome import Failure, Outcome, Usage
from serve_app.queue.store.rows import outcome_from_json, outcome_to_json


def test_an_outcome_comes_back_as_it_was() -> None:
    failure = Failure(
        "invalid_input", "Too small.", False, "image_url", "image_too_small", {"min_width": 8}
    )
    artifact = Artifact("r/1/1/a.png", "image/png", 3, "00")
    for outcome in (
        Outcome(failure=failure, usage=Usage(1.5, 2, 0.5)),
        Outcome(output={"images": []}, artifacts=(artifact,)),
    ):
        assert outcome_from_json(json.loads(json.dumps(outcome_to_json(outcome)))) == outcome


def test_one_of_an_earlier_version_is_read() -> None:
    stored = outcome_to_json(
        Outcome(failure=Failure("pipeline_failed", "No paint.", False, "seed"))
    )
    for later in ("type", "context"):
        del stored["failure"][later]
    failure = outcome_from_json(stored).failure
    assert failure == Failure("pipeline_failed", "No paint.", False, "seed")
