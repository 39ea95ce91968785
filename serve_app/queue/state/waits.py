"""Reason why a queued request waits. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from serve_app.domain.lease import Presence, ReplicaStage
from serve_app.domain.progress import from_plain
from serve_app.domain.request import Request, State, Waiting, WaitReason
from serve_app.queue.store import messages


def why_it_waits(endpoint: str, here: Sequence[Presence]) -> Waiting:
    """Reason why a request for ``endpoint`` waits, without its position and times. ``here``: the
    replicas of its pool.

    If a ready replica is loading the endpoint's weights, that is the reason.
    """
    ready = [presence for presence in here if presence.stage is ReplicaStage.READY]
    starting = [presence for presence in here if presence.stage is ReplicaStage.STARTING]
    coming = [
        (presence, loading)
        for presence in ready or starting
        for loading in from_plain(presence.loading)
    ]
    own = [(presence, loading) for presence, loading in coming if endpoint in loading.endpoints]
    for replica, load in own or (() if ready else coming):
        return Waiting(0, WaitReason.COLD_START, replica.detail, load.stage.value, load.share)
    if ready:
        return Waiting(
            0, WaitReason.BUSY, next((presence.detail for presence in ready if presence.detail), "")
        )
    for replica in starting:
        return Waiting(0, WaitReason.COLD_START, replica.detail, ReplicaStage.STARTING.value)
    return Waiting(0, WaitReason.NO_REPLICA)


def coalesced_waiting(
    leader: Request | None, own: Waiting | None, ends_at: datetime | None
) -> Waiting:
    """Queue status of a request coalesced with ``leader``.

    ``own`` is the leader's status while it is queued; ``ends_at`` is its expected end while it
    runs.
    """
    if leader is None or leader.state.final:
        return Waiting(0, WaitReason.FOLLOWING)
    detail = messages.follows(leader.id)
    if leader.state is State.QUEUED and own is not None:
        return replace(own, reason=WaitReason.FOLLOWING, detail=detail)
    return Waiting(0, WaitReason.FOLLOWING, detail, starts_at=leader.started_at, ends_at=ends_at)


def waits_as_suspect(request: Request, why: Waiting) -> Waiting:
    """``why``, with the detail of a suspect, which not every free slot takes."""
    if why.reason is WaitReason.BUSY and request.alone and request.failures:
        return replace(why, detail=messages.SUSPECT)
    return why
