"""Messages that the queue writes into a request's log and its failures."""

from __future__ import annotations

import json
from dataclasses import replace

from psycopg import Error

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
    UploadPolicyFailed,
)
from serve_app.domain.outcome import Failure, Outcome
from serve_app.domain.well_formed import to_well_formed

QUEUED = "Queued."
CANCEL_REQUESTED = "Cancel requested; the request stops at its next step."
SUCCEEDED = "Succeeded."
FORGOTTEN = (
    "The message was deleted: the request was sent with X-Fal-Store-IO: 0, or this installation "
    "keeps messages no longer."
)
UNDELIVERED = (
    "The webhook was not delivered before its content was deleted: the request was sent with "
    "X-Fal-Store-IO: 0. Submit the request again."
)
SUSPECT = (
    "A replica died with it, so it runs alone: on another node first, if one is ready, and not "
    "beside another such request."
)
REQUEUED = "Taken from its replica by an operator"
RUNS_ALREADY = "The request runs already: its priority only matters while it waits."
SESSION_HAS_NO_PRIORITY = "A realtime session goes before all requests: it has no other priority."
TOO_MANY_LINKS = "The tenant has 1000 share links: revoke some, or wait until they expire."
NO_PREVIEWS = "The request was submitted without previews."

_encode = json.JSONEncoder(separators=(",", ":")).encode


def cancellation() -> Outcome:
    """Outcome of a request that was cancelled while no attempt could answer for it."""
    return _failure_outcome(Cancelled("The request was cancelled."))


def reuse(earlier: str) -> str:
    return f"{SUCCEEDED} The outcome was reused from request {earlier}, which had the same input."


GOES_ON = (
    "The request with the same input ended without an outcome to share; this one runs by itself."
)


def other_pool(before: str, now: str) -> str:
    return f"It waits in the pool {now} now: the pool {before} does not run its endpoint any more."


FOLLOWS = ("Request ", " has the same input; its outcome will be reused.")


def follows(leader: str) -> str:
    return leader.join(FOLLOWS)


def new_priority(priority: str) -> str:
    return f"An operator changed the priority to {priority}."


def too_many_waiting_bytes(new: int, waiting: int, most: int) -> str:
    return (
        f"The large inputs of your queued requests take {waiting} bytes, and {new} more exceed the "
        f"limit of {most} bytes ({WAITING_BYTES_SETTINGS}). Upload files and send their URLs."
    )


def too_large_to_wait(new: int, most: int) -> str:
    return (
        f"The input has {new} bytes, and those of all your queued requests may have {most} "
        f"({WAITING_BYTES_SETTINGS}). Upload files and send their URLs."
    )


WAITING_BYTES_SETTINGS = "DARKROOM_MAX_WAITING_BYTES_PER_TENANT, or max_waiting_bytes of the tenant"


def expiry() -> Outcome:
    return _failure_outcome(Expired("The request did not start within the time that it allowed."))


def not_in_time() -> Outcome:
    return _failure_outcome(Expired(TOO_LATE))


def ended_its_replica(times: int) -> Outcome:
    message = (
        f"The request ended its replica {times} times before it was complete. It is not retried; "
        "submit it again with a smaller input, or ask the operator to look at the replica's log."
    )
    return _failure_outcome(Poison(message))


def no_retry_left() -> Outcome:
    return _failure_outcome(
        ReplicaDied(
            "The replica that ran the request died or stopped answering, and the request's "
            "X-Fal-No-Retry or X-Fal-Retry-Config header allows no retry. Submit it again."
        )
    )


def never_confirmed(times: int) -> Outcome:
    message = (
        f"The request was leased {times} times, but no replica confirmed it, or Darkroom was "
        "stopped first. It is not retried; submit it again."
    )
    return _failure_outcome(Poison(message))


def failed_by_hand(reason: str) -> Outcome:
    why = f": {clean(reason)}" if reason else "."
    return _failure_outcome(
        FailedByHand(f"An operator of this installation ended the request{why}")
    )


def endpoint_missing(endpoint: str) -> Outcome:
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


def upload_policy_failure(why: str) -> Outcome:
    return _failure_outcome(UploadPolicyFailed(why))


def _failure_outcome(error: GenerationError) -> Outcome:
    return Outcome(failure=Failure(error.code, error.message, retryable=False))


def clean(text: str) -> str:
    """``text`` as PostgreSQL can store it: no NUL, no half of a surrogate pair."""
    return text.replace("\0", "�").encode("utf-8", "replace").decode("utf-8")


def compact(value: object) -> str:
    """JSON in ASCII. Every Python string survives, also an ill-formed one."""
    return _encode(value)


def is_cancel(failure: Failure) -> bool:
    """True if the replica stopped because of a cancel."""
    return failure.code == Cancelled.code


def is_expiry(failure: Failure) -> bool:
    """True if the replica stopped because the overall deadline had passed."""
    return failure.code == Expired.code


def unstorable(error: Error) -> str:
    """Why the outcome of an attempt cannot be stored."""
    why = ": ".join(filter(None, (error.diag.message_primary, error.diag.message_detail)))
    return f"The result cannot be stored: {why.rstrip('.')}."


MAX_FAILURE_CHARACTERS = 10_000
"""Longest message of a failure. An app's exception may quote its whole input, and the message is
sent in every status and list."""


def storable(outcome: Outcome) -> Outcome:
    """The outcome with well-formed texts in its output, because no protocol can send others, and a
    failure message that PostgreSQL can store."""
    if (failure := outcome.failure) is None:
        return replace(outcome, output=to_well_formed(outcome.output))
    message = failure.message
    if len(message) > MAX_FAILURE_CHARACTERS:
        message = f"{message[:MAX_FAILURE_CHARACTERS]} …"
    return replace(outcome, failure=replace(failure, message=clean(message)))
