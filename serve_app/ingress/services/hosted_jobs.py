"""Ends jobs of hosted providers that no replica goes on with.

Their request was cancelled between two attempts, fell back to another endpoint, or ended with its
replica. The ingress has the key, and one call is enough.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from urllib.parse import urlsplit

import httpx2

from serve_app.domain.endpoint import Endpoint
from serve_app.domain.executors.hosted import UnwantedJob
from serve_app.options.hosted import HostedEndpoint
from serve_app.postgres.hosted_calls import PostgresHostedCalls
from serve_app.resources.secrets import SecretBook

log = logging.getLogger(__name__)

SWEEP_EVERY_S = 5.0
CALL_S = 20.0
GIVE_UP_AFTER_S = 3600.0

LATER = (408, 425, 429, 500, 502, 503, 504)
"""Statuses of a provider after which the call is repeated."""


class UnwantedJobs:
    """Ends jobs, each by one ingress process at a time. A call that a provider did not answer is
    repeated each minute, for an hour. So long, a job whose id is not known yet is waited for."""

    def __init__(
        self,
        calls: PostgresHostedCalls,
        endpoint: Callable[[str], Endpoint | None],
        secrets: SecretBook,
        http: Callable[[], httpx2.AsyncClient] = lambda: httpx2.AsyncClient(timeout=CALL_S),
    ) -> None:
        self._calls = calls
        self._endpoint = endpoint
        self._secrets = secrets
        self._make_http = http

    async def sweep(self) -> None:
        if not (found := await self._calls.take_unwanted()):
            return
        async with self._make_http() as http:
            for job in found:
                if await self._is_ended(job, http) or job.age_s > GIVE_UP_AFTER_S:
                    await self._calls.forget_unwanted(job.id)

    async def _is_ended(self, job: UnwantedJob, http: httpx2.AsyncClient) -> bool:
        """Ask the provider to end a job. False: it did not answer, or has yet to name the job."""
        if not job.accepted:
            return False
        endpoint = self._endpoint(job.endpoint)
        if endpoint is None:
            return True  # nothing says where it is any more
        try:
            spec = HostedEndpoint.of(endpoint)
        except ValueError:
            return True
        method, url = _cancel_call(spec, job)
        held = await self._secrets.read(job.owner, [spec.secret])
        key = next((each.value for each in held if each.owner == job.owner), None)
        if key is None or not url or _origin(url) != _origin(spec.url):
            return True
        scheme = "Key" if spec.provider in ("fal", "darkroom") else "Bearer"
        headers = {"authorization": f"{scheme} {key.strip()}"}
        try:
            answer = await http.request(method, url, headers=headers)
        except httpx2.HTTPError as error:
            log.info("A job of %s could not be cancelled yet: %r", spec.account, error)
            return False
        log.info("A job of %s was cancelled: %d", spec.account, answer.status_code)
        return answer.status_code not in LATER


def _cancel_call(spec: HostedEndpoint, job: UnwantedJob) -> tuple[str, str]:
    """Method and URL that end a job; no URL: its provider has none."""
    if spec.provider == "replicate":
        return "POST", f"{job.place['get']}/cancel" if "get" in job.place else ""
    return "PUT", str(job.place.get("cancel", ""))


def _origin(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    return parts.scheme, parts.netloc
