"""Hosted providers: services elsewhere that run requests of endpoints here, and are paid for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, cast

from serve_app.domain.endpoint import Endpoint
from serve_app.domain.serialization import pickle_by_name

PROVIDERS = ("fal", "replicate", "openai", "darkroom")
"""Names of the executors of hosted providers, which endpoints use as their ``family``."""

OPTION = "hosted"
"""Option of an endpoint with what it is at its provider."""

EVERY = "*"
"""Last part of the id of an entry for all of fal's endpoints that have none of their own, and the
provider's id in it."""


def runs_in_executor(endpoint: Endpoint) -> bool:
    """Check that an executor runs an endpoint, and not the engine: its schemas are data of its
    entry, and it has no weights."""
    has_weights = bool(endpoint.weights.source)
    return endpoint.family in PROVIDERS or (endpoint.schema == "json" and not has_weights)


def wants_own_key(endpoint: Endpoint) -> bool:
    """Check that an endpoint of a provider is for tenants with a key of their own only."""
    option = endpoint.options.get(OPTION)
    is_hosted = endpoint.family in PROVIDERS and isinstance(option, Mapping)
    return is_hosted and cast("Mapping[str, Any]", option).get("own_key") is True


def may_move_job(endpoint: Endpoint) -> bool | None:
    """How a replica that ends treats a request that it has sent to a provider. True: another
    replica goes on with the provider's job. False: the answer to its call is the result, which
    would be lost. None: the endpoint is not a provider's."""
    if endpoint.family not in PROVIDERS:
        return None
    option = endpoint.options.get(OPTION)
    makes = cast("Mapping[str, Any]", option).get("makes") if isinstance(option, Mapping) else None
    return endpoint.family != "openai" or makes == "videos"


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
