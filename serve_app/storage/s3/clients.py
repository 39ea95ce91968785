"""boto3's clients: one that calls, and two that sign URLs for others. Its calls block, so they run
on threads of their own."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, ParamSpec, TypeVar

import boto3
from botocore.config import Config as BotoConfig
from botocore.exceptions import BotoCoreError, ClientError

from serve_app.domain.errors import Misconfigured, StorageUnavailable
from serve_app.storage.s3 import troubles
from serve_app.storage.s3.location import S3Location

P = ParamSpec("P")
T = TypeVar("T")

log = logging.getLogger(__name__)

THREADS = 32  # calls under way at once; each waits for the network
CHECK_THREADS = 4
CONNECT_S = 5.0
ANSWER_S = 20.0  # without a byte
ATTEMPTS = 3  # of one call, the first included
CHECK_CONNECT_S, CHECK_ANSWER_S = 1.5, 2.5  # readiness waits 5 s in all
REFRESH_S = 60.0  # boto3 renews a role's credentials when less than 15 minutes are left
DEFAULT_REGION = "us-east-1"  # what stores without regions go by


@dataclass(frozen=True, slots=True)
class StaticKey:
    """Credentials given by setting."""

    access_key_id: str
    secret_access_key: str = field(repr=False)


class S3Clients:
    """``start`` looks the credentials up, which may ask the network; ``aclose`` lets go.

    Signing needs no network and is quick, so it may be done on the event loop: it goes by a copy of
    the credentials, which a task keeps fresh. boto3's own would block there to renew them.
    """

    def __init__(self, location: S3Location, key: StaticKey | None) -> None:
        self._location = location
        self._key = key
        self._pool: ThreadPoolExecutor | None = None
        self._check_pool: ThreadPoolExecutor | None = None  # so that a check waits for no call
        self._refreshing: asyncio.Task[None] | None = None
        self._session: Any = None
        self._copied: Any = None  # the credentials that the signing clients have
        self.calls: Any = None
        self.checks: Any = None  # gives up sooner
        self.uploads: Any = None  # signs for replicas
        self.downloads: Any = None  # signs for clients

    async def start(self) -> None:
        """``Misconfigured`` when there are no credentials, ``StorageUnavailable`` when the place
        that hands them out is away."""
        if self._pool is not None:
            return
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="s3")
        self._check_pool = ThreadPoolExecutor(CHECK_THREADS, thread_name_prefix="s3 check")
        try:
            await self.in_thread("finding credentials", self._make)
        except BaseException:
            await self.aclose()
            raise
        self._refreshing = asyncio.create_task(self._keep_fresh(), name="s3 credentials")

    async def aclose(self) -> None:
        pools = self._pool, self._check_pool
        self._pool = self._check_pool = None
        if self._refreshing is not None:
            self._refreshing.cancel()
            await asyncio.gather(self._refreshing, return_exceptions=True)
            self._refreshing = None
        for pool in pools:
            if pool is not None:
                # Not waited for: a call to a store that hangs ends by its own time limit.
                pool.shutdown(wait=False, cancel_futures=True)
        for client in (self.calls, self.checks):
            if client is not None:
                client.close()

    async def in_thread(
        self, doing: str, work: Callable[P, T], *arguments: P.args, **named: P.kwargs
    ) -> T:
        """Run ``work``, which blocks; what goes wrong with S3 becomes an error of ours."""
        return await self._run(self._pool, doing, lambda: work(*arguments, **named))

    async def check(self, action: str, work: Callable[..., T], **named: Any) -> T:
        """The same for a quick look, on threads that nothing else takes."""
        return await self._run(self._check_pool, action, lambda: work(**named))

    async def call(self, action: str, operation: str, **parameters: Any) -> Any:
        """One operation of boto3's client on the bucket; ``action`` is what a policy calls it."""
        method = getattr(self.calls, operation)
        return await self.in_thread(action, method, Bucket=self._location.bucket, **parameters)

    async def _run(self, pool: ThreadPoolExecutor | None, doing: str, work: Callable[[], T]) -> T:
        if pool is None:
            raise StorageUnavailable("The storage is closed.")
        try:
            return await asyncio.get_running_loop().run_in_executor(pool, work)
        except (BotoCoreError, ClientError, OSError) as error:
            raise troubles.explain(error, self._location, doing) from error

    def _make(self) -> None:
        session = self._session = boto3.Session(
            aws_access_key_id=self._key.access_key_id if self._key else None,
            aws_secret_access_key=self._key.secret_access_key if self._key else None,
            region_name=self._location.region,
        )
        if session.get_credentials() is None:
            raise Misconfigured(
                f"DARKROOM_S3_BUCKET is set and no credentials were found: set "
                f"{troubles.CREDENTIALS}."
            )
        self.calls = self._client(self._location.endpoint_url)
        self.checks = self._client(
            self._location.endpoint_url,
            connect_timeout=CHECK_CONNECT_S,
            read_timeout=CHECK_ANSWER_S,
            retries={"total_max_attempts": 1, "mode": "standard"},
        )
        self._refresh()

    def _refresh(self) -> None:
        """Renew the copy where the credentials have changed."""
        fresh = self._session.get_credentials().get_frozen_credentials()
        if fresh == self._copied:
            return
        endpoint = self._location.endpoint_url
        public = self._location.public_endpoint_url or endpoint
        self.uploads, self.downloads = (
            self._client(
                url,
                aws_access_key_id=fresh.access_key,
                aws_secret_access_key=fresh.secret_key,
                aws_session_token=fresh.token,
            )
            for url in (endpoint, public)
        )
        self._copied = fresh

    async def _keep_fresh(self) -> None:
        while True:
            await asyncio.sleep(REFRESH_S)
            try:
                await self.in_thread("renewing credentials", self._refresh)
            except Exception as error:
                # What was signed goes on working until the old ones end; the next turn tries again.
                log.warning("The credentials for S3 could not be renewed: %s", error)

    def _client(self, endpoint_url: str | None, **changes: Any) -> Any:
        place = self._location
        styles = {None: "auto", True: "path", False: "virtual"}
        options: dict[str, Any] = {
            "signature_version": "s3v4",
            "s3": {"addressing_style": styles[place.path_style]},
            "connect_timeout": CONNECT_S,
            "read_timeout": ANSWER_S,
            "retries": {"total_max_attempts": ATTEMPTS, "mode": "standard"},
            "max_pool_connections": THREADS,
            # boto3's own checksums come as trailers that older stores write into the object. We
            # send Content-MD5, which every store checks.
            "request_checksum_calculation": "when_required",
            "response_checksum_validation": "when_required",
        }
        credentials = {name: changes.pop(name) for name in list(changes) if name.startswith("aws_")}
        client = self._session.client(
            "s3",
            endpoint_url=endpoint_url,
            region_name=place.region or self._session.region_name or DEFAULT_REGION,
            config=BotoConfig(**{**options, **changes}),
            **credentials,
        )
        client.meta.events.register("before-call.s3", _stay_in_region)
        return client


def _stay_in_region(params: dict[str, Any], **_: Any) -> None:
    """Calls to another region than the bucket's fail, as presigned URLs do, and are told. boto3
    would quietly go to the right one, and for ever if the store redirects without saying where."""
    params["context"].setdefault("s3_redirect", {})["redirected"] = True
