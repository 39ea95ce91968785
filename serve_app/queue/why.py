"""Why a queued request waits, by what the replicas of its pool say of themselves. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from serve_app.domain.lease import Presence, ReplicaStage
from serve_app.domain.loading import of_plain
from serve_app.domain.request import WaitReason


@dataclass(frozen=True, slots=True)
class Why:
    """As ``Waiting`` has them."""

    reason: WaitReason
    detail: str = ""
    stage: str | None = None
    share: float | None = None  # of the stage, by bytes


def why_it_waits(endpoint: str, here: Sequence[Presence]) -> Why:
    """``here``: the replicas of its pool. While one of those that are ready brings the weights of
    ``endpoint``, that is what it waits for."""
    ready = [each for each in here if each.stage is ReplicaStage.READY]
    starting = [each for each in here if each.stage is ReplicaStage.STARTING]
    coming = [(each, one) for each in ready or starting for one in of_plain(each.loading)]
    own = [(each, one) for each, one in coming if endpoint in one.endpoints]
    for each, one in own or (() if ready else coming):
        return Why(WaitReason.COLD_START, each.detail, one.stage.value, one.share)
    if ready:
        return Why(WaitReason.BUSY, next((each.detail for each in ready if each.detail), ""))
    for each in starting:
        return Why(WaitReason.COLD_START, each.detail, ReplicaStage.STARTING.value)
    return Why(WaitReason.NO_REPLICA)
