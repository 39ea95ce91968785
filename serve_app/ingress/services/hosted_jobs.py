"""Ends jobs of hosted providers that no replica goes on with.

Their request was cancelled between two attempts, fell back to another endpoint, or ended with its
replica. The ingress has the key, and one call is enough.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from urllib.parse import urlsplit

import httpx2

from serve_app.domain.endpoint import Endpoint
from serve_app.domain.executors.hosted import UnwantedJob
from serve_app.jobs.jobs import Job, JobHandler, JobKind, Retry
from serve_app.options.hosted import HostedEndpoint
from serve_app.postgres.hosted_calls import PostgresHostedCalls
from serve_app.resources.secrets import SecretBook

log = logging.getLogger(__name__)

CALL_S = 20.0

NOT_ENDED = "The provider has not named its job yet, or did not answer the call that ends it."
LATER = (408, 425, 429, 500, 502, 503, 504)
"""Statuses of a provider after which the call is repeated."""


class HostedJobEnding(JobHandler):
    """Handler of jobs whose key is a call whose job nobody wants. A call that a provider did not
    answer is repeated each minute, for an hour. So long, a job whose id is not known yet is waited
    for."""

    kind = JobKind("hosted", first_wait_s=60.0, max_wait_s=60.0, max_attempts=60, batch=20)

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

    async def run(self, jobs: Sequence[Job]) -> Sequence[Retry]:
        async with self._make_http() as http:
            left = [job for job in jobs if not await self._is_ended(job.key, http)]
        return [Retry(left, error=NOT_ENDED)] if left else []

    async def _is_ended(self, call_id: str, http: httpx2.AsyncClient) -> bool:
        """Ask the provider to end a job. False: it did not answer, or has yet to name the job."""
        job = await self._calls.find_unwanted_job(call_id)
        if job is None or not job.accepted:
            return job is None
        endpoint = self._endpoint(job.endpoint)
        if endpoint is None:
            return True  # nothing says where it is any more
        try:
            spec = HostedEndpoint.of(endpoint)
        except ValueError:
            return True
        method, url = _cancel_call(spec, job)
        secrets = await self._secrets.read(job.owner, [spec.secret])
        key = next((secret.value for secret in secrets if secret.owner == job.owner), None)
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
