"""Hosted providers: services elsewhere that run requests of endpoints here, and are paid for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Literal, cast
from urllib.parse import urlsplit

from serve_app.domain.endpoint import Endpoint
from serve_app.domain.executors.secrets import named_by
from serve_app.domain.serialization import pickle_by_name

PROVIDERS = ("fal", "replicate", "openai", "darkroom")
"""Names of the executors of hosted providers, which endpoints use as their ``family``."""

RUN_CODE = ("python", "cog", "comfyui")
"""Names of the executors that run code on a replica."""

OPTION = "hosted"
"""Option of an endpoint with what it is at its provider."""

URLS = {
    "fal": "https://queue.fal.run",
    "replicate": "https://api.replicate.com/v1",
    "openai": "https://api.openai.com/v1",
}
"""Base URLs of the providers. A Darkroom has none that is known."""

HISTORY_URLS = {"fal": "https://api.fal.ai"}
"""Base URLs of lists of requests, where they are on another host."""

EVERY = "*"
"""Last part of the id of an entry for all of fal's endpoints that have none of their own, and the
provider's id in it."""

OPERATIONS = ("images", "videos")
"""What an endpoint of OpenAI may make."""

_FIELDS = frozenset(
    {"endpoint", "url", "history_url", "on_unknown", "grace_s", "busy_s", "makes", "own_key"}
)


@dataclass(frozen=True, slots=True)
class HostedEndpoint:
    """An endpoint as its provider serves it."""

    provider: str
    endpoint: str  # the provider's id: an endpoint, ``owner/name`` or a version, or a model
    secret: str  # name of the secret with the provider's key
    url: str
    history_url: str
    on_unknown: Literal["fail", "repeat"] = "fail"
    grace_s: float = 120.0  # for finding a call whose answer was lost
    busy_s: float = 600.0  # of repeated attempts while the provider takes no requests
    makes: str = "images"  # one of ``OPERATIONS``; for OpenAI only
    own_key: bool = False  # only a tenant's own key is used

    @classmethod
    def of(cls, endpoint: Endpoint) -> HostedEndpoint:
        """Raises ``ValueError``, which names the option that is wrong."""
        given = endpoint.options.get(OPTION)
        if not isinstance(given, Mapping):
            raise ValueError(  # noqa: TRY004  # a mistake of an entry
                f"the family `{endpoint.family}` needs `options.{OPTION}` with `endpoint`, the "
                "provider's id"
            )
        fields = cast("Mapping[str, Any]", given)
        if unknown := sorted(map(str, fields.keys() - _FIELDS)):
            known = ", ".join(sorted(_FIELDS))
            raise ValueError(f"`options.{OPTION}` has no `{unknown[0]}`; known are {known}")
        every = endpoint.id.endswith(f"/{EVERY}")
        if every != (fields.get("endpoint") == EVERY) or (every and endpoint.family != "fal"):
            raise ValueError(
                f"an entry for several endpoints has the family `fal`, an id such as "
                f'`fal-ai/{EVERY}`, and `options.{OPTION}.endpoint: "{EVERY}"`'
            )
        secrets = named_by(endpoint.options)
        if len(secrets) != 1:
            raise ValueError(
                f"`options.secrets` must name one secret, with the key of the provider, such as "
                f"[{endpoint.family.upper()}_KEY]"
            )
        return cls(
            provider=endpoint.family,
            endpoint=_text(fields, "endpoint"),
            secret=secrets[0],
            url=_url(fields, "url", URLS.get(endpoint.family)),
            history_url=_url(
                fields, "history_url", HISTORY_URLS.get(endpoint.family, fields.get("url") or "x:/")
            ),
            on_unknown=_one_of(fields, "on_unknown", ("fail", "repeat")),
            grace_s=_seconds(fields, "grace_s", 120.0),
            busy_s=_seconds(fields, "busy_s", 600.0),
            makes=_one_of(fields, "makes", OPERATIONS),
            own_key=_flag(fields, "own_key"),
        )

    @staticmethod
    def passed(endpoint: Endpoint, endpoint_id: str) -> Endpoint:
        """One of the endpoints that an entry for several ones, ``endpoint``, stands for."""
        hosted = {**endpoint.options[OPTION], "endpoint": endpoint_id}
        options = {**endpoint.options, OPTION: hosted}
        return replace(endpoint, id=endpoint_id, display_name=endpoint_id, options=options)

    @property
    def is_listed(self) -> bool:
        """A call whose answer was lost is found in a list of the provider, where it must be told
        from equal ones."""
        return self.provider in ("fal", "replicate") or self.makes == "videos"

    @property
    def account(self) -> str:
        """The provider with its server, in whose lists ids are unique."""
        parts = urlsplit(self.url)
        return f"{self.provider} {parts.scheme}://{parts.netloc}"


def wants_own_key(endpoint: Endpoint) -> bool:
    """Check that an endpoint of a provider is for tenants with a key of their own only."""
    given = endpoint.options.get(OPTION)
    is_hosted = endpoint.family in PROVIDERS and isinstance(given, Mapping)
    return is_hosted and cast("Mapping[str, Any]", given).get("own_key") is True


def moves(endpoint: Endpoint) -> bool | None:
    """How a replica that ends treats a request that it has sent to a provider. True: another
    replica goes on with the provider's job. False: the answer to its call is the result, which
    would be lost. None: the endpoint is not a provider's."""
    if endpoint.family not in PROVIDERS:
        return None
    given = endpoint.options.get(OPTION)
    makes = cast("Mapping[str, Any]", given).get("makes") if isinstance(given, Mapping) else None
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

    id: str  # of the call
    endpoint: str  # ours, that the attempt ran: the request may have fallen back to it
    owner: str  # of the secret that it was sent with
    place: Mapping[str, Any]
    age_s: float  # since the request ended, or ran elsewhere
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


def _text(fields: Mapping[str, Any], name: str) -> str:
    value = fields.get(name)
    if not isinstance(value, str) or not value.strip("/"):
        raise ValueError(f"`options.{OPTION}.{name}` must be a text")
    return value.strip("/")


def _url(fields: Mapping[str, Any], name: str, default: str | None) -> str:
    value = fields.get(name, default)
    if not isinstance(value, str):
        raise ValueError(f"`options.{OPTION}.{name}` must be the URL of the provider")  # noqa: TRY004
    parts = urlsplit(value)
    if name in fields and (parts.scheme not in ("http", "https") or not parts.netloc):
        raise ValueError(f"`options.{OPTION}.{name}` must be an http or https URL, not {value!r}")
    return value.rstrip("/")


def _one_of(fields: Mapping[str, Any], name: str, known: tuple[str, ...]) -> Any:
    value = fields.get(name, known[0])
    if value not in known:
        raise ValueError(f"`options.{OPTION}.{name}` must be {' or '.join(known)}")
    return value


def _seconds(fields: Mapping[str, Any], name: str, default: float) -> float:
    value = fields.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 86400:
        raise ValueError(f"`options.{OPTION}.{name}` must be from 0 to 86400 seconds")
    return float(value)


def _flag(fields: Mapping[str, Any], name: str) -> bool:
    value = fields.get(name, False)
    if not isinstance(value, bool):
        raise ValueError(f"`options.{OPTION}.{name}` must be true or false")  # noqa: TRY004
    return value
