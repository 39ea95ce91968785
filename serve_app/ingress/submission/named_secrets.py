"""Secrets that the endpoint of a submit names. They must be set before it is queued."""

from __future__ import annotations

from serve_app.domain.errors import SecretMissing
from serve_app.domain.executors.secrets import INSTALLATION, named_by
from serve_app.ingress.submission.admission import Submission


async def require_secrets(submission: Submission) -> None:
    """Raise ``SecretMissing`` for a secret that is not set. Those of hosted providers may have the
    tenant's own."""
    services, endpoint = submission.services, submission.entry.endpoint
    is_hosted = endpoint.executor.is_hosted
    own_key = is_hosted and endpoint.executor_option.get("own_key") is True
    tenants = [submission.tenant] if is_hosted else []
    owners = tenants if own_key else [*tenants, INSTALLATION]
    for name in named_by(endpoint.options):
        for owner in owners:
            if await services.known_secrets.has(services.secrets, owner, name, services.clock):
                break
        else:
            raise SecretMissing(
                f"{endpoint.id} needs a key of your own in the secret {name}, which is not "
                f"set. Set it with `darkroom secrets set {name}`."
                if own_key
                else f"{endpoint.id} needs the secret {name}, which is not set. An operator "
                f"sets it with `darkroom secrets set {name} --installation`."
            )
