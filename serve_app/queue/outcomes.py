"""Outcomes as JSON, and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from serve_app.domain.artifact import Artifact
from serve_app.domain.outcome import Failure, Outcome, Usage


def to_json(outcome: Outcome) -> dict[str, Any]:
    failure = outcome.failure
    return {
        "output": outcome.output,
        "artifacts": [asdict(artifact) for artifact in outcome.artifacts],
        "failure": None if failure is None else asdict(failure),
        "usage": asdict(outcome.usage),
    }


def from_json(stored: Mapping[str, Any]) -> Outcome:
    failure = stored["failure"]
    return Outcome(
        output=stored["output"],
        artifacts=tuple(Artifact(**artifact) for artifact in stored["artifacts"]),
        failure=None if failure is None else Failure(**failure),
        usage=Usage(**stored["usage"]),
    )
