"""The sentences that the queue writes into a request's own log and into its failures."""

from __future__ import annotations

import json
from dataclasses import replace

from serve_app.domain.errors import (
    TOO_LATE,
    Cancelled,
    EndpointNotFound,
    Expired,
    FailedByHand,
    GenerationError,
    Misconfigured,
    Poison,
    ReplicaDied,
)
from serve_app.domain.outcome import Failure, Outcome

QUEUED = "Queued."
CANCEL_REQUESTED = "A cancel was asked for; it stops at its next step."
SUCCEEDED = "Succeeded."
FORGOTTEN = "What it said was forgotten: the request came with X-Fal-Store-IO: 0."
REQUEUED = "Taken from its replica by hand"
NO_PREVIEWS = "The request was submitted without previews."
PREVIEWS_WHILE_RUNNING = "There are previews of a request only while it runs."

_encode = json.JSONEncoder(separators=(",", ":")).encode


def cancelled() -> Outcome:
    """Of a request that was cancelled while no attempt could answer for it."""
    return _failed(Cancelled("The request was cancelled."))


def reused(earlier: str) -> str:
    return f"{SUCCEEDED} The outcome is that of request {earlier}, which had the same input."


GOES_ON = "What made the same ended without an outcome to share; this request is made by itself."


FOLLOWS = ("Request ", " makes the same; its outcome will do.")


def follows(leader: str) -> str:
    return leader.join(FOLLOWS)


def expired() -> Outcome:
    return _failed(Expired("The request did not start within the time that it allowed."))


def not_in_time() -> Outcome:
    return _failed(Expired(TOO_LATE))


def ended_its_replica(times: int) -> Outcome:
    message = (
        f"The request ended its replica {times} times, each time before it was done; "
        "it is not tried again."
    )
    return _failed(Poison(message))


def no_retry_left() -> Outcome:
    return _failed(
        ReplicaDied(
            "The replica that ran the request died or answered no more, and its X-Fal-No-Retry or "
            "X-Fal-Retry-Config allows no other attempt."
        )
    )


def never_confirmed(times: int) -> Outcome:
    message = (
        f"The request was given to replicas {times} times in vain: they never confirmed it, or "
        "Darkroom was stopped under them. It is not tried again."
    )
    return _failed(Poison(message))


def failed_by_hand(reason: str) -> Outcome:
    said = f": {clean(reason)}" if reason else "."
    return _failed(FailedByHand(f"An operator of this installation ended the request{said}"))


def endpoint_gone(endpoint: str) -> Outcome:
    return Outcome(
        failure=Failure(
            code=EndpointNotFound.code,
            message=f"The endpoint {endpoint} is no longer in this installation's catalogue.",
            retryable=False,
        )
    )


def no_terms(error: Exception) -> Outcome:
    message = f"This installation could not prepare the request: {error}"
    return Outcome(failure=Failure(Misconfigured.code, clean(message), retryable=True))


def _failed(error: GenerationError) -> Outcome:
    return Outcome(failure=Failure(error.code, error.message, retryable=False))


def clean(text: str) -> str:
    """``text`` as PostgreSQL can store it: no NUL, no half of a surrogate pair."""
    return text.replace("\0", "�").encode("utf-8", "replace").decode("utf-8")


def compact(value: object) -> str:
    """JSON in ASCII, so that every string of Python's, also an ill-formed one, survives."""
    return _encode(value)


def is_cancel(failure: Failure) -> bool:
    """The replica stopped because it was asked to."""
    return failure.code == Cancelled.code


def is_expiry(failure: Failure) -> bool:
    """The replica stopped because the request's time in all was over."""
    return failure.code == Expired.code


def storable(outcome: Outcome) -> Outcome:
    """The same with a failure message that PostgreSQL can store."""
    failure = outcome.failure
    if failure is None:
        return outcome
    return replace(outcome, failure=replace(failure, message=clean(failure.message)))
