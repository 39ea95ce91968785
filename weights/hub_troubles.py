"""What goes wrong with the hub, as sentences that say what to do."""

from __future__ import annotations

import httpx2
from huggingface_hub.errors import (
    DisabledRepoError,
    GatedRepoError,
    HfHubHTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from serve_app.domain.errors import WeightsUnavailable

TOO_MANY = 429
UNAUTHORIZED = 401
SERVER_ERRORS = 500

ELSEWHERE = (
    "Where there is no way to it, run `darkroom models pull` on a machine that has one and copy "
    "the directory, or name a mirror (DARKROOM_WEIGHTS_MIRROR)."
)


def can_pass(error: Exception) -> bool:
    """Whether asking again can help."""
    if isinstance(error, HfHubHTTPError):
        status = error.response.status_code
        return status in (408, TOO_MANY) or status >= SERVER_ERRORS
    # A proxy that refuses goes on refusing.
    return isinstance(error, httpx2.TransportError) and not isinstance(error, httpx2.ProxyError)


def retry_after_s(error: Exception) -> float | None:
    """What the hub asks for, when it says it in seconds."""
    if not isinstance(error, HfHubHTTPError):
        return None
    value = error.response.headers.get("Retry-After", "").strip()
    return float(value) if value.isdecimal() else None


def explain(
    error: Exception, repository: str, revision: str, endpoint: str, *, token: bool
) -> WeightsUnavailable:
    """``token``: whether one was sent."""
    return WeightsUnavailable(_sentence(error, repository, revision, endpoint, token=token))


def _sentence(
    error: Exception, repository: str, revision: str, endpoint: str, *, token: bool
) -> str:
    if isinstance(error, GatedRepoError):
        return _gated(repository, f"{endpoint}/{repository}", token=token)
    if isinstance(error, RepositoryNotFoundError):
        who = "the account of HF_TOKEN may not see it" if token else "it is private: set HF_TOKEN"
        return f"The hub {endpoint} has no {repository}, or {who}."
    if isinstance(error, RevisionNotFoundError):
        page = f"{endpoint}/{repository}/commits"
        return f"{repository} has no revision {revision}: {page} lists those it has."
    if isinstance(error, DisabledRepoError):
        return f"The hub has taken {repository} down; {endpoint}/{repository} may say why."
    if isinstance(error, HfHubHTTPError):
        return _of_status(error, repository, endpoint)
    return _of_the_way(error, repository, endpoint)


def _gated(repository: str, page: str, *, token: bool) -> str:
    if token:
        return (
            f"{repository} is gated, and the account of HF_TOKEN has no access: accept its licence "
            f"at {page} with that account. A fine-grained token must also be allowed to read gated "
            "repositories."
        )
    return (
        f"{repository} is gated: accept its licence at {page}, make a token of that account that "
        "can read, and set it as HF_TOKEN where Darkroom is started (on a cluster: in the "
        "environment of Ray on the nodes with replicas)."
    )


def _of_status(error: HfHubHTTPError, repository: str, endpoint: str) -> str:
    status = error.response.status_code
    if status == TOO_MANY:
        return (
            f"The hub {endpoint} asks for fewer calls (429) and did so again after a wait. With "
            "HF_TOKEN it allows more; else try later, or name a mirror (DARKROOM_WEIGHTS_MIRROR)."
        )
    if status == UNAUTHORIZED:
        return f"The hub {endpoint} does not know the token in HF_TOKEN: it may have expired."
    if status >= SERVER_ERRORS:
        return f"The hub {endpoint} answers {status} for {repository}, again and again. Try later."
    return f"The hub {endpoint} does not give {repository}: {error}"


def _of_the_way(error: Exception, repository: str, endpoint: str) -> str:
    if isinstance(error, OfflineModeIsEnabled):
        return f"{repository} is not on this machine, and HF_HUB_OFFLINE forbids to fetch it."
    if isinstance(error, httpx2.ProxyError):
        return (
            f"The proxy does not let through to the hub {endpoint}: {error}. It is the one of "
            "HTTPS_PROXY or HTTP_PROXY; NO_PROXY excepts hosts."
        )
    if isinstance(error, ValueError):
        return f"{repository} cannot be fetched: {error}"
    return (
        f"{repository} cannot be fetched: the hub {endpoint} is not reached "
        f"({str(error) or type(error).__name__}). Look at the network, HTTPS_PROXY and "
        f"HF_ENDPOINT. {ELSEWHERE}"
    )
