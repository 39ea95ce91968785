"""Secrets that endpoints name: a request without one is refused before it waits in the queue."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from serve_app.domain.endpoint import Endpoint
from serve_app.domain.errors import SecretMissing
from serve_app.domain.executors import hosted
from serve_app.domain.executors.secrets import INSTALLATION, named_by
from serve_app.ingress.services.services import Services


async def require_secrets(services: Services, tenant: str, endpoint: Endpoint) -> None:
    """Raise ``SecretMissing`` for a secret that the endpoint names and that is not set. Endpoints
    of hosted providers may have the tenant's own."""
    is_hosted = endpoint.family in hosted.PROVIDERS
    given = endpoint.options.get(hosted.OPTION)
    own_key = is_hosted and isinstance(given, Mapping) and cast("Any", given).get("own_key") is True
    owners = [*([tenant] if is_hosted else []), *([] if own_key else [INSTALLATION])]
    for name in named_by(endpoint.options):
        for owner in owners:
            if await services.known_secrets.has(services.secrets, owner, name, services.clock):
                break
        else:
            raise SecretMissing(missing(endpoint.id, name, own_key=own_key))


def missing(endpoint_id: str, name: str, *, own_key: bool) -> str:
    """Sentence about a secret that is not set."""
    if own_key:
        return (
            f"{endpoint_id} needs a key of your own in the secret {name}, which is not set. Set it "
            f"with `darkroom secrets set {name}`."
        )
    return (
        f"{endpoint_id} needs the secret {name}, which is not set. An operator sets it with "
        f"`darkroom secrets set {name} --installation`."
    )
