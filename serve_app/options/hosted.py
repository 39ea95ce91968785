"""Options of endpoints at hosted providers, which the catalogue checks and replicas read."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from serve_app.domain.endpoint import Endpoint
from serve_app.domain.executors.hosted import EVERY
from serve_app.domain.executors.kinds import HOSTED
from serve_app.domain.executors.secrets import named_by
from serve_app.options.executors import Url
from serve_app.options.mistakes import validate

URLS = {
    "fal": "https://queue.fal.run",
    "replicate": "https://api.replicate.com/v1",
    "openai": "https://api.openai.com/v1",
}
"""Base URLs of the providers. A Darkroom has none that is known."""

HISTORY_URLS = {"fal": "https://api.fal.ai"}
"""Base URLs of lists of requests, where they are on another host."""


def _checked_id(value: str) -> str:
    if not (id_ := value.strip("/")):
        raise ValueError("it must be the provider's id of the endpoint")
    return id_


Seconds = Annotated[float, Field(ge=0, le=86400)]


class HostedOptions(BaseModel):
    """What an endpoint is at its provider, as its entry says it."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    endpoint: Annotated[str, AfterValidator(_checked_id)]
    """The provider's id: an endpoint, ``owner/name`` or a version, or a model."""
    url: Url = ""  # empty: that of the provider
    history_url: Url = ""
    on_unknown: Literal["fail", "repeat"] = "fail"
    grace_s: Seconds = 120.0  # for finding a call whose answer was lost
    busy_s: Seconds = 600.0  # of repeated attempts while the provider takes no requests
    makes: Literal["images", "videos"] = "images"  # for OpenAI only
    own_key: bool = False  # only a tenant's own key is used


class HostedEndpoint(HostedOptions):
    """An endpoint as its provider serves it."""

    provider: str
    secret: str  # name of the secret with the provider's key

    @classmethod
    def of(cls, endpoint: Endpoint) -> HostedEndpoint:
        """Raises ``ValueError``, which names the option that is wrong."""
        options = validate(HostedOptions, endpoint.options.get(HOSTED, {}), f"options.{HOSTED}")
        every = endpoint.id.endswith(f"/{EVERY}")
        if every != (options.endpoint == EVERY) or (every and endpoint.family != "fal"):
            raise ValueError(
                f"an entry for several endpoints has the family `fal`, an id such as "
                f'`fal-ai/{EVERY}`, and `options.{HOSTED}.endpoint: "{EVERY}"`'
            )
        secrets = named_by(endpoint.options)
        if len(secrets) != 1:
            raise ValueError(
                f"`options.secrets` must name one secret, with the key of the provider, such as "
                f"[{endpoint.family.upper()}_KEY]"
            )
        if not (url := options.url or URLS.get(endpoint.family, "")):
            raise ValueError(f"`options.{HOSTED}.url` must be the URL of the provider")
        history_url = options.history_url or HISTORY_URLS.get(endpoint.family, url)
        fields: dict[str, Any] = {**dict(options), "url": url, "history_url": history_url}
        return cls(provider=endpoint.family, secret=secrets[0], **fields)

    @staticmethod
    def with_id(endpoint: Endpoint, endpoint_id: str) -> Endpoint:
        """One of the endpoints that an entry for several ones, ``endpoint``, stands for."""
        hosted = {**endpoint.options[HOSTED], "endpoint": endpoint_id}
        options = {**endpoint.options, HOSTED: hosted}
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
