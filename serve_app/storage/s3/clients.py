"""boto3 clients: for calls and for checks; and signers of URLs for replicas and for clients.

boto3's calls block, so they run in their own threads, of which each tenant has a share.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, ParamSpec, TypeVar

import boto3
import botocore.session
from botocore.config import Config as BotoConfig
from botocore.credentials import ReadOnlyCredentials, RefreshableCredentials
from botocore.exceptions import BotoCoreError, ClientError

from serve_app.domain.errors import Misconfigured, StorageUnavailable
from serve_app.domain.sharing.fair_queue import FairThreads
from serve_app.periodic_task import PeriodicTask
from serve_app.storage.s3 import errors
from serve_app.storage.s3.location import AssumedRole, S3Location
from serve_app.storage.s3.presigning import Presigner
from serve_app.storage.s3.provider import DEFAULT_REGION

P = ParamSpec("P")
T = TypeVar("T")


THREADS = 32  # concurrent calls; each waits for the network
CHECK_THREADS = 4
CONNECT_S = 5.0
ANSWER_S = 20.0  # maximum time without a byte
ATTEMPTS = 3  # tries of one call, including the first
CHECK_CONNECT_S, CHECK_ANSWER_S = 1.5, 2.5  # readiness waits 5 s in all
REFRESH_S = 60.0  # boto3 renews a role's credentials when less than 15 minutes are left


@dataclass(frozen=True, slots=True)
class StaticKey:
    """Credentials from Darkroom's settings."""

    access_key_id: str
    secret_access_key: str = field(repr=False)


class S3Clients:
    """Owner of the clients. ``start`` looks up the credentials, which may use the network.

    Signing is quick and needs no network, so it runs on the event loop. It uses a copy of the
    credentials that a task keeps fresh, because boto3's own credentials would block while they are
    renewed.
    """

    def __init__(self, location: S3Location, key: StaticKey | None) -> None:
        self._location = location
        self._key = key
        self._pool: FairThreads | None = None
        self._check_pool: FairThreads | None = None  # separate, so checks never wait for calls
        self._refreshing = PeriodicTask(
            REFRESH_S, {"renew credentials for S3": self._renew}, first_after_s=REFRESH_S
        )
        self._session: Any = None
        self._copied: Any = None  # the credentials of the signing clients
        self.calls: Any = None
        self.checks: Any = None  # with shorter timeouts
        self.uploads: Presigner | None = None  # for replicas
        self.downloads: Presigner | None = None  # for clients

    async def start(self) -> None:
        """Look up the credentials and create the clients.

        Raises ``Misconfigured`` if there are no credentials, ``StorageUnavailable`` if their
        provider does not answer.
        """
        if self._pool is not None:
            return
        self._pool = FairThreads(THREADS, "s3")
        self._check_pool = FairThreads(CHECK_THREADS, "s3 check")
        try:
            await self.in_thread("finding credentials", self._make)
        except BaseException:
            await self.aclose()
            raise
        self._refreshing.start()

    async def aclose(self) -> None:
        pools = self._pool, self._check_pool
        self._pool = self._check_pool = None
        await self._refreshing.aclose()
        for pool in pools:
            if pool is not None:
                # Not awaited: a call to a store that hangs ends by its own timeout.
                pool.shutdown(wait=False, cancel_futures=True)
        for client in (self.calls, self.checks):
            if client is not None:
                client.close()

    async def in_thread(
        self, doing: str, work: Callable[P, T], *arguments: P.args, **named: P.kwargs
    ) -> T:
        """Run blocking ``work`` in a thread. Errors of S3 become ``DarkroomError``."""
        return await self._run(self._pool, doing, lambda: work(*arguments, **named))

    async def check(self, action: str, work: Callable[..., T], **named: Any) -> T:
        """Run a short check in the threads reserved for checks."""
        return await self._run(self._check_pool, action, lambda: work(**named))

    async def call(self, action: str, operation: str, **parameters: Any) -> Any:
        """Call an operation of boto3's client on the bucket. ``action`` is its name in policies."""
        method = getattr(self.calls, operation)
        return await self.in_thread(action, method, Bucket=self._location.bucket, **parameters)

    async def _run(self, pool: FairThreads | None, doing: str, work: Callable[[], T]) -> T:
        if pool is None:
            raise StorageUnavailable("The storage is closed.")
        try:
            return await asyncio.get_running_loop().run_in_executor(pool, work)
        except (BotoCoreError, ClientError, OSError) as error:
            raise errors.explain(error, self._location, doing) from error

    def _make(self) -> None:
        session = self._session = boto3.Session(
            aws_access_key_id=self._key.access_key_id if self._key else None,
            aws_secret_access_key=self._key.secret_access_key if self._key else None,
            region_name=self._location.region,
        )
        if session.get_credentials() is None:
            raise Misconfigured(
                f"No credentials were found for {self._location.description}. Set "
                f"{errors.CREDENTIALS}."
            )
        if self._location.role is not None:
            self._session = in_role(session, self._location.role)
        self.calls = self._client(self._location.endpoint_url)
        self.checks = self._client(
            self._location.endpoint_url,
            connect_timeout=CHECK_CONNECT_S,
            read_timeout=CHECK_ANSWER_S,
            retries={"total_max_attempts": 1, "mode": "standard"},
        )
        self._refresh()

    def _refresh(self) -> None:
        """Update the copy if the credentials have changed."""
        fresh = self._session.get_credentials().get_frozen_credentials()
        if fresh == self._copied:
            return
        endpoint = self._location.endpoint_url
        public = self._location.public_endpoint_url or endpoint
        self.uploads, self.downloads = (self._presigner(url, fresh) for url in (endpoint, public))
        self._copied = fresh

    def _presigner(self, endpoint_url: str | None, fresh: ReadOnlyCredentials) -> Presigner:
        client = self._client(
            endpoint_url,
            aws_access_key_id=fresh.access_key,
            aws_secret_access_key=fresh.secret_key,
            aws_session_token=fresh.token,
        )
        return Presigner(client, self._location.bucket, fresh)

    async def _renew(self) -> None:
        # Signed URLs stay valid until the old credentials expire, also if this fails.
        await self.in_thread("renewing credentials", self._refresh)

    def _default_region(self) -> str:
        default = self._location.provider.region
        # A store such as R2 has one region; the AWS environment's is meant for AWS.
        return default if default == "auto" else self._session.region_name or default

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
            # boto3 sends its own checksums as trailers, which older stores write into the object.
            # Content-MD5 is sent instead, which every store checks.
            "request_checksum_calculation": "when_required",
            "response_checksum_validation": "when_required",
        }
        credentials = {name: changes.pop(name) for name in list(changes) if name.startswith("aws_")}
        client = self._session.client(
            "s3",
            endpoint_url=endpoint_url,
            region_name=place.region or self._default_region(),
            config=BotoConfig(**{**options, **changes}),
            **credentials,
        )
        client.meta.events.register("before-call.s3", _stay_in_region)
        return client


def _stay_in_region(params: dict[str, Any], **_: Any) -> None:
    """Make calls to a wrong region fail, as presigned URLs do, so that the error is visible.

    boto3 would silently switch to the right region, and would loop forever if the store redirects
    without naming it.
    """
    params["context"].setdefault("s3_redirect", {})["redirected"] = True


# Roles of other accounts, assumed by STS.

SESSION_NAME = "darkroom"
ALMOST_OVER_S = 60.0
"""Remaining time from which a call waits for new credentials."""


def in_role(session: boto3.Session, role: AssumedRole) -> boto3.Session:
    """Session with the role's credentials. Blocks; calls STS.

    New credentials are fetched when half of their time is over, so what they have signed stays
    valid for the other half at least. Raises ``StorageUnavailable`` if the role cannot be assumed.
    """
    region = session.region_name or DEFAULT_REGION
    sts: Any = session.client(
        "sts",
        region_name=region,
        endpoint_url=role.sts_endpoint_url,
        config=BotoConfig(connect_timeout=CONNECT_S, read_timeout=ANSWER_S),
    )
    external = {"ExternalId": role.external_id} if role.external_id else {}

    def assume() -> dict[str, str]:
        answer = sts.assume_role(
            RoleArn=role.arn,
            RoleSessionName=SESSION_NAME,
            DurationSeconds=role.session_s,
            **external,
        )
        credentials = answer["Credentials"]
        expires: datetime = credentials["Expiration"]
        return {
            "access_key": credentials["AccessKeyId"],
            "secret_key": credentials["SecretAccessKey"],
            "token": credentials["SessionToken"],
            "expiry_time": expires.astimezone(UTC).isoformat(),
        }

    core = botocore.session.get_session()
    try:
        first = assume()
    except (BotoCoreError, ClientError) as error:
        raise StorageUnavailable(_refusal(role, error)) from error
    core._credentials = RefreshableCredentials.create_from_metadata(  # noqa: SLF001  # pyrefly: ignore[missing-attribute]  # has no public setter
        metadata=first,
        refresh_using=assume,
        method="sts-assume-role",
        advisory_timeout=role.session_s // 2,
        mandatory_timeout=int(ALMOST_OVER_S),
    )
    return boto3.Session(botocore_session=core, region_name=region)


def _refusal(role: AssumedRole, error: Exception) -> str:
    if not isinstance(error, ClientError):
        return f"STS does not answer ({error}), so the role {role.arn} could not be assumed."
    reason = error.response.get("Error", {}).get("Code", "")
    external = "with" if role.external_id else "without"
    return (
        f"The role {role.arn} cannot be assumed {external} an external id ({reason}). Its trust "
        "policy must allow sts:AssumeRole to Darkroom's credentials and require the external id of "
        "the location, and its longest session must not be below role_session_s."
    )
