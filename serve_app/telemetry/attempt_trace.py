"""Timings of one attempt, as a replica reports them. The ingress makes the spans of them.

Replicas export nothing themselves: see ADR 0048. Times are durations, so the clocks of two machines
need not agree.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from serve_app.domain.lease import LeaseKey

Attribute = str | int | float


@dataclass(frozen=True, slots=True)
class StageTiming:
    """One stage of an attempt, such as ``denoising``."""

    name: str
    after_s: float  # from the start of the attempt to its own
    took_s: float
    attributes: Mapping[str, Attribute]


@dataclass(frozen=True, slots=True)
class AttemptTrace:
    """Timings of an attempt that has ended."""

    trace: str  # context of the request, of which the attempt's span is a child
    lease_key: LeaseKey
    endpoint: str
    tenant: str
    took_s: float
    ended_ago_s: float  # when this was sent
    error: str  # code; empty: it succeeded, or was handed back
    stages: Sequence[StageTiming]

    def to_plain(self) -> Mapping[str, Any]:
        """The same as plain data, because another version might not know our classes."""
        return {
            "trace": self.trace,
            "request_id": self.lease_key.request_id,
            "attempt": self.lease_key.attempt,
            "nonce": self.lease_key.nonce,
            "endpoint": self.endpoint,
            "tenant": self.tenant,
            "took_s": self.took_s,
            "ended_ago_s": self.ended_ago_s,
            "error": self.error,
            "stages": [
                (stage.name, stage.after_s, stage.took_s, dict(stage.attributes))
                for stage in self.stages
            ],
        }


def from_plain(plain: Mapping[str, Any]) -> AttemptTrace:
    return AttemptTrace(
        trace=plain["trace"],
        lease_key=LeaseKey(plain["request_id"], plain["attempt"], plain["nonce"]),
        endpoint=plain["endpoint"],
        tenant=plain["tenant"],
        took_s=plain["took_s"],
        ended_ago_s=plain["ended_ago_s"],
        error=plain["error"],
        stages=[StageTiming(*stage[:4]) for stage in plain["stages"]],
    )
