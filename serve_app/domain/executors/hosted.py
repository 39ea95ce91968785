"""Hosted providers: services elsewhere that run requests of endpoints here, and are paid for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from serve_app.domain.endpoint import Endpoint
from serve_app.domain.serialization import pickle_by_name

EVERY = "*"
"""Last part of the id of an entry for all of fal's endpoints that have none of their own, and the
provider's id in it."""


def is_paid_answer(endpoint: Endpoint) -> bool:
    """Check that the answer to the call of a provider is the result, which is paid and would be
    lost with its replica. Otherwise another replica goes on with the provider's job."""
    is_job = endpoint.executor_option.get("makes") == "videos"
    return endpoint.executor.answers_inline and not is_job


class CallState(StrEnum):
    SENDING = "sending"  # about to be sent, or sent without an answer: it may be accepted
    ACCEPTED = "accepted"  # the provider's id is known
    UNCONFIRMED = "unconfirmed"  # it was looked for and not found; ended


@pickle_by_name
@dataclass(frozen=True, slots=True)
class HostedCall:
    """What was sent to a provider for a request, as the database has it."""

    id: str
    state: str  # a ``CallState``
    owner: str  # of the secret that it was sent with
    endpoint: str
    age_s: float  # since it was about to be sent
    provider_id: str = ""
    place: Mapping[str, Any] = field(default_factory=dict[str, Any])
    fresh: bool = False  # the asker made it, so nothing was sent yet


@dataclass(frozen=True, slots=True)
class UnwantedJob:
    """A provider's job that no replica goes on with, and that nobody wants."""

    endpoint: str  # ours, that the attempt ran: the request may have fallen back to it
    owner: str  # of the secret that it was sent with
    place: Mapping[str, Any]
    accepted: bool  # False: the provider's answer is not known yet


@pickle_by_name
@dataclass(frozen=True, slots=True)
class NewCall:
    """A call of a provider that is about to be sent."""

    id: str  # new and random, so only its maker can know if it was sent
    account: str
    owner: str
    endpoint: str
    input_hash: str
