"""Executor of hosted providers: sends each request at most once, and waits for its result.

What is about to be sent is committed before a socket is opened. So after a crash, or a lost answer,
a request whose fate is not known is looked for at the provider, and never simply sent again.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from secrets import token_urlsafe
from typing import Any, cast
from weakref import WeakValueDictionary

from deployments.executors.base import Event, ExecutorWork, LoggedLine, MadeOutput
from deployments.executors.hosted.calls import (
    Away,
    Busy,
    CallRefused,
    HostedJob,
    ProviderApi,
    ProviderClient,
    Unknown,
    Wire,
)
from deployments.executors.hosted.fal import DarkroomQueue, FalQueue
from deployments.executors.hosted.files import PAUSES, HostedFiles
from deployments.executors.hosted.providers import (
    OpenAiImageCalls,
    OpenAiVideoCalls,
    ReplicatePredictions,
)
from deployments.executors.kind import KindIngress
from deployments.replica.attempt_state import StopReason
from deployments.transfer.fetcher import Fetcher
from serve_app.domain.errors import (
    DarkroomError,
    Fenced,
    HostedFailed,
    HostedUnconfirmed,
    Misconfigured,
    SecretMissing,
)
from serve_app.domain.executors.hosted import CallState, HostedCall, NewCall
from serve_app.domain.executors.secrets import INSTALLATION
from serve_app.domain.progress import Progress
from serve_app.options.hosted import HostedEndpoint

log = logging.getLogger(__name__)

MAX_WAITING = 100_000  # requests of one process; its pool's slots are the limit
MAX_REPEATS = 3
CANCEL_S = 60.0  # of attempts to cancel a job
STOPPED = "The request was stopped before it was sent."
CLOCK_SKEW = timedelta(seconds=60)  # between this machine and the provider
UNWANTED = (StopReason.CANCELLED, StopReason.DEADLINE)
"""Reasons for which the provider's job is ended too. Else another attempt goes on with it."""


@dataclass(frozen=True, slots=True)
class CallPauses:
    """Times between calls in seconds. Each is followed by a longer one, up to the second number."""

    poll: tuple[float, float] = (0.1, 5.0)
    look: tuple[float, float] = (1.0, 10.0)
    busy: tuple[float, float] = (1.0, 30.0)
    store: tuple[float, float] = (0.2, 5.0)
    file: tuple[float, float] = PAUSES
    away_s: float = 3600.0  # a job's state cannot be read: then the request fails


@dataclass
class _Sent:
    """A request of this executor."""

    work: ExecutorWork
    provider: ProviderApi | None = None
    placing: asyncio.Task[HostedJob] | None = None


class HostedExecutor:
    """Runs requests of one provider's endpoints, many at once. Use on one event loop.

    Implements ``AppExecutor``. The process holds nothing that a crash would lose.
    """

    def __init__(
        self,
        http: Callable[[], ProviderClient],
        source: KindIngress,
        fetcher: Callable[[], Fetcher],
        pauses: CallPauses | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """``http`` makes the client for the providers' calls; ``fetcher`` what reads outputs;
        ``now`` is compared with the times in the providers' lists."""
        self._now = now
        self._make_http = http
        self._make_fetcher = fetcher
        self._source = source
        self._pauses = pauses or CallPauses()
        self._http: ProviderClient | None = None
        self._fetcher: Fetcher | None = None
        self._sent: dict[str, _Sent] = {}
        self._withdrawals: set[asyncio.Task[None]] = set()
        self._turns: WeakValueDictionary[tuple[str, ...], asyncio.Lock] = WeakValueDictionary()

    @property
    def alive(self) -> bool:
        return self._http is not None

    @property
    def concurrency(self) -> int:
        return MAX_WAITING

    async def start(self, on_progress: Callable[[Progress], None]) -> None:
        del on_progress
        self._http, self._fetcher = self._make_http(), self._make_fetcher()

    async def run(self, work: ExecutorWork) -> AsyncIterator[Event]:
        http, fetcher = self._http, self._fetcher
        if http is None or fetcher is None:
            raise Misconfigured("The executor was not started.")
        spec = _spec(work)
        sent = self._sent[work.request_id] = _Sent(work)
        try:
            files = HostedFiles(work, spec, fetcher, self._pauses.file)
            async for event in self._events(sent, spec, http, files):
                yield event
        except asyncio.CancelledError:
            raise  # ``cancel`` follows, which needs it
        except BaseException:
            self._forget(sent)
            raise
        self._forget(sent)

    def _forget(self, sent: _Sent) -> None:
        """Drop a request that has ended, with its input and its secrets."""
        if self._sent.get(sent.work.request_id) is sent:
            del self._sent[sent.work.request_id]

    async def _events(
        self, sent: _Sent, spec: HostedEndpoint, http: ProviderClient, files: HostedFiles
    ) -> AsyncIterator[Event]:
        body = await asyncio.to_thread(files.inline_input)
        # A task of its own: what was sent is recorded also if the attempt is stopped meanwhile.
        sent.placing = asyncio.create_task(self._place_job(sent, spec, http, body))
        sent.placing.add_done_callback(_retrieve_error)
        job = await asyncio.shield(sent.placing)
        if sent.provider is None:
            raise Misconfigured("The job has no provider.")
        async for event in self._follow_job(sent.provider, job):
            if isinstance(event, MadeOutput):
                output = await files.fetch_output(event.output, sent.provider.wire)
                for warning in files.warnings:
                    yield LoggedLine("WARNING", warning)
                yield MadeOutput(output)
                return
            yield event

    async def cancel(self, request_id: str, grace_s: float) -> bool:
        """End the provider's job, if the request is not wanted any more. True at once, or after
        ``grace_s`` seconds: it then goes on with that in the background."""
        sent = self._sent.pop(request_id, None)
        if sent is None or sent.placing is None:
            return True
        task = asyncio.create_task(self._withdraw(sent))
        self._withdrawals.add(task)
        task.add_done_callback(self._withdrawals.discard)
        await asyncio.wait({task}, timeout=grace_s)
        return True

    async def aclose(self, grace_s: float) -> None:
        if self._withdrawals:
            await asyncio.wait(self._withdrawals, timeout=grace_s)
        tasks = [sent.placing for sent in self._sent.values() if sent.placing is not None]
        for task in (*tasks, *self._withdrawals):
            task.cancel()
        http, fetcher, self._http, self._fetcher = self._http, self._fetcher, None, None
        if http is not None:
            await http.aclose()
        if fetcher is not None:
            await fetcher.aclose()

    async def _withdraw(self, sent: _Sent) -> None:
        """Let a call end that is under way, and end the provider's job if it is not wanted."""
        if sent.placing is None:
            return
        try:
            job = await asyncio.shield(sent.placing)
            if sent.work.stopped() in UNWANTED and sent.provider is not None:
                await self._cancel_job(sent.provider, job)
        except DarkroomError as error:
            log.info("The provider's job is not cancelled: %s", error.message)

    async def _cancel_job(self, provider: ProviderApi, job: HostedJob) -> None:
        until = _now() + CANCEL_S
        for pause in _doubling(self._pauses.look):
            try:
                await provider.cancel(job)
                return
            except Away as error:
                if _now() + pause > until:
                    log.warning("The job %s could not be cancelled: %s", job.id, error)
                    return
            await asyncio.sleep(pause)

    async def _place_job(
        self, sent: _Sent, spec: HostedEndpoint, http: ProviderClient, body: Mapping[str, Any]
    ) -> HostedJob:
        """The provider's job of a request: sent now, or by an earlier attempt."""
        owner = _owners(sent.work, spec)[0]
        digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
        # Equal requests of this process take turns here; those of others by the database.
        alone = (spec.account, owner, spec.endpoint, digest)
        turn = self._turns.setdefault(alone, asyncio.Lock()) if spec.is_listed else nullcontext()
        busy_until, pauses = _now() + spec.busy_s, _doubling(self._pauses.busy)
        for repeats in itertools.count():
            async with turn:
                call_id = token_urlsafe(24)
                # No list has to tell equal calls apart, so none waits for another one.
                unique = digest if spec.is_listed else f"{digest} {call_id}"
                new = NewCall(call_id, spec.account, owner, spec.endpoint, unique)
                call = await self._begin_call(sent, new)
                if call.fresh and _is_stopped(sent):  # while the provider or an equal call was busy
                    await self._end(call, "refused")
                    raise HostedFailed(STOPPED)
                provider = sent.provider = _provider(sent.work, spec, http, call.owner)
                try:
                    return await self._job(call, provider, spec, body)
                except Busy as error:
                    await self._end(call, "refused")
                    pause = error.retry_after_s or next(pauses)
                    if _now() + pause > busy_until or _is_stopped(sent):
                        raise HostedFailed(f"{error}.") from error
                except Unknown as error:
                    if spec.on_unknown == "fail" or repeats >= MAX_REPEATS:
                        await self._end(call, CallState.UNCONFIRMED)
                        raise HostedUnconfirmed(
                            f"It is not known whether {spec.account} has accepted the request, "
                            f"since {str(error).rstrip('.')}. It was not sent again, because that "
                            "might be paid twice."
                        ) from None
                    await self._end(call, "repeated")
                    pause = 0.0
            await asyncio.sleep(pause)
        raise AssertionError

    async def _begin_call(self, sent: _Sent, new: NewCall) -> HostedCall:
        """The request's call, written to the database. Waits while an equal one is being sent by
        another process."""
        if sent.work.lease_key is None:
            raise Misconfigured("A request of a hosted provider has no lease.")
        for pause in _doubling(self._pauses.store):
            call: HostedCall | None = await self._call_ingress(
                "begin_hosted_call", sent.work.lease_key, new
            )
            if call is not None:
                return call
            if _is_stopped(sent):
                raise HostedFailed(STOPPED)
            await asyncio.sleep(pause)
        raise AssertionError

    async def _job(
        self,
        call: HostedCall,
        provider: ProviderApi,
        spec: HostedEndpoint,
        body: Mapping[str, Any],
    ) -> HostedJob:
        """The job of a call. Raises ``Busy`` if there is none, ``Unknown`` if it is not found, and
        the error of a refusal."""
        if call.state == CallState.ACCEPTED:
            return HostedJob(call.provider_id, call.place)
        lost = Unknown("an earlier attempt ended while it was sent")
        # Now: it may be looked for long after this, when its answer has not come in time.
        since = self._now() - timedelta(seconds=call.age_s) - CLOCK_SKEW
        if call.fresh:
            try:
                return await self._accept_job(call, await provider.submit(call, body))
            except CallRefused as error:
                await self._end(call, "refused")
                raise error.error from None
            except Unknown as error:
                lost = error
                log.warning("A call of %s may have been accepted: %s", spec.account, error)
        job = await self._find_job(call, provider, spec, partial(provider.find, call, body, since))
        if job is None:
            raise lost
        return job

    async def _accept_job(self, call: HostedCall, job: HostedJob) -> HostedJob:
        if not await self._accepts(call, job):
            raise HostedUnconfirmed(f"The provider's job {job.id} belongs to another request.")
        return job

    async def _find_job(
        self,
        call: HostedCall,
        provider: ProviderApi,
        spec: HostedEndpoint,
        find: Callable[[], Awaitable[list[HostedJob]]],
    ) -> HostedJob | None:
        """Job of a call whose answer was lost. None if there is none after the grace."""
        if not provider.finds:
            return None
        until = _now() + max(0.0, spec.grace_s - (0 if call.fresh else call.age_s))
        for pause in _doubling(self._pauses.look):
            try:
                for job in await find():
                    if await self._accepts(call, job):
                        log.info("The job %s of %s was found.", job.id, spec.account)
                        return job
            except Away as error:
                log.info("The provider's list cannot be read: %s", error)
            except (DarkroomError, Unknown) as error:
                log.warning("The provider's list cannot be read: %s", error)
                return None
            if _now() + pause > until:
                return None
            await asyncio.sleep(pause)
        return None

    async def _follow_job(self, provider: ProviderApi, job: HostedJob) -> AsyncIterator[Event]:
        """Events of a job until its result, which has ``HostedFile`` in place of files."""
        read_at, lines = _now(), 0
        last: Progress | None = None
        for pause in _doubling(self._pauses.poll, 1.3):
            try:
                state = await provider.poll(job)
            except Away as error:
                if _now() - read_at > self._pauses.away_s:
                    raise HostedFailed(f"The job {job.id} cannot be read: {error}.") from error
            else:
                read_at = _now()
                for level, text in state.lines[lines:]:
                    yield LoggedLine("ERROR" if level == "ERROR" else "INFO", text)
                lines = max(lines, len(state.lines))
                if state.result is not None:
                    yield MadeOutput(state.result)
                    return
                if state.progress is not None and state.progress != last:
                    last = state.progress
                    yield last
            await asyncio.sleep(pause)

    async def _accepts(self, call: HostedCall, job: HostedJob) -> bool:
        """Write that a job is that of the call. False: it belongs to another one."""
        return await self._call_ingress("accept_hosted_call", call.id, job.id, dict(job.place))

    async def _end(self, call: HostedCall, state: str) -> None:
        await self._call_ingress("end_hosted_call", call.id, state)

    async def _call_ingress(self, name: str, *arguments: Any) -> Any:
        """Result of a call of the ingress, which is repeated until it answers."""
        for pause in _doubling(self._pauses.store):
            try:
                return await self._source.for_executor(name, *arguments)
            except (Fenced, Misconfigured):
                raise
            except Exception as error:  # such as Ray's, while an ingress restarts
                log.warning("The ingress does not answer, so its call is repeated: %r", error)
            await asyncio.sleep(pause)
        raise AssertionError


def _spec(work: ExecutorWork) -> HostedEndpoint:
    try:
        return HostedEndpoint.of(work.endpoint)
    except ValueError as error:
        raise Misconfigured(f"The entry of {work.endpoint.id} is not usable: {error}.") from error


def _owners(work: ExecutorWork, spec: HostedEndpoint) -> list[str]:
    """Owners of the keys that the request may be sent with, the first one first."""
    owners = [
        secret.owner
        for secret in work.secrets
        if secret.name == spec.secret and not (spec.own_key and secret.owner == INSTALLATION)
    ]
    if not owners:
        whose = "" if spec.own_key else " --installation"
        raise SecretMissing(
            f"{work.endpoint.id} needs the key of its provider in the secret {spec.secret}, which "
            f"is not set. Set it with `darkroom secrets set {spec.secret}{whose}`."
        )
    return owners


def _key(work: ExecutorWork, spec: HostedEndpoint, owner: str) -> str:
    for secret in work.secrets:
        if (secret.name, secret.owner) == (spec.secret, owner):
            return secret.value
    raise SecretMissing(
        f"The request was sent with a key in the secret {spec.secret} that is not set any more, so "
        "its result cannot be read. Set it again."
    )


def _provider(
    work: ExecutorWork, spec: HostedEndpoint, http: ProviderClient, owner: str
) -> ProviderApi:
    scheme = "Key" if spec.provider in ("fal", "darkroom") else "Bearer"
    schema = cast("Mapping[str, Any]", work.endpoint.options.get("output_schema") or {})
    wire = Wire(http, spec, f"{scheme} {_key(work, spec, owner).strip()}", schema)
    match spec.provider:
        case "fal":
            return FalQueue(wire)
        case "darkroom":
            return DarkroomQueue(wire)
        case "replicate":
            return ReplicatePredictions(wire)
        case _:
            return OpenAiVideoCalls(wire) if spec.makes == "videos" else OpenAiImageCalls(wire)


def _is_stopped(sent: _Sent) -> bool:
    return sent.work.stopped() is not None


def _doubling(times: tuple[float, float], factor: float = 2.0) -> Iterator[float]:
    """CallPauses without end, each longer than the one before, up to the second number."""
    pause, most = times
    while True:
        yield pause
        pause = min(pause * factor, most)


def _now() -> float:
    return asyncio.get_running_loop().time()


def _retrieve_error(task: asyncio.Task[Any]) -> None:
    """Read the error of a task, which is nobody's any more if its attempt was stopped."""
    if not task.cancelled():
        task.exception()
