"""Calls of replicas to the ingress, and the spans that they report."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

from serve_app.domain.artifact import UploadTicket
from serve_app.domain.errors import Fenced, Unsupported
from serve_app.domain.executors.comfyui import ComfyUiBook
from serve_app.domain.executors.partial_results import PartialResults
from serve_app.domain.executors.secrets import INSTALLATION, Secret, named_by
from serve_app.domain.lease import (
    Ask,
    Finish,
    LeaseKey,
    LeaseTerms,
    Presence,
    Report,
    ReportReply,
    Verdict,
    WeightOffer,
    Work,
)
from serve_app.domain.ports import MAX_FILES, Clock, Queue
from serve_app.domain.progress import StoredSnapshot
from serve_app.domain.rest import Rest
from serve_app.ingress.local_rpc import LocalRpcServer, portable
from serve_app.ingress.services.services import Services
from serve_app.postgres.hosted_calls import PostgresHostedCalls
from serve_app.postgres.weight_peers import PostgresWeightPeers
from serve_app.provenance.signer import ClaimSigner
from serve_app.queue.queue import PostgresQueue
from serve_app.queue.transactions.catalog_entries import AppBundles
from serve_app.queue.transactions.lease import ExecutorLeases
from serve_app.registry.postgres import PostgresWeightBook
from serve_app.resources.secrets import SecretBook
from serve_app.settings import OpenTelemetrySettings
from serve_app.storage.keys import DEFAULT_MEDIA_TYPE, UPLOAD_EXTENSIONS
from serve_app.telemetry.attempt_trace import from_plain
from serve_app.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from serve_app.telemetry.tracing import Tracing


log = logging.getLogger(__name__)


async def start_tracing(
    stack: AsyncExitStack, clock: Clock, metrics: Metrics, *, names_tenants: bool
) -> Tracing | None:
    """Start to export spans, until ``stack`` is closed. None if the environment asks for none.

    ``Misconfigured`` names the variable that is wrong.
    """
    settings = OpenTelemetrySettings()
    if not settings.traces:
        return None
    most = settings.most_waiting

    def start() -> Tracing:
        # Imported only here, because it needs OpenTelemetry's SDK.
        from serve_app.telemetry import tracing  # noqa: PLC0415

        return tracing.start_tracing(clock, most, metrics.spans, names_tenants=names_tenants)

    started = await asyncio.to_thread(start)
    stack.push_async_callback(asyncio.to_thread, started.close)
    log.info("Spans of requests are exported by OTLP.")
    return started


def record_attempts(tracing: Tracing | None, metrics: Metrics, report: Report) -> None:
    """Record the spans of the attempts that ended on a replica."""
    if report.lost_traces:
        metrics.spans("not_reported", report.lost_traces)
    if tracing is not None:
        for trace in report.traces:
            tracing.record_attempt(from_plain(trace), report.pool, report.replica_id)


class ExecutorCalls:
    """Answers ``domain.ports.AppSource`` for replicas."""

    def __init__(
        self,
        terms: LeaseTerms,
        bundles: AppBundles,
        queue: Queue,
        partials: PartialResults,
        leases: ExecutorLeases,
        secrets: SecretBook,
        hosted: PostgresHostedCalls,
        comfyui: ComfyUiBook,
    ) -> None:
        self.bundles = bundles
        self._terms = terms
        self._queue = queue
        self._leases = leases
        self._secrets = secrets
        self._calls: dict[str, Callable[..., Awaitable[Any]]] = {
            "file_ticket": self._file_ticket,
            "app_bundle": bundles.read,
            "add_partials": partials.add,
            "secrets": self._named_secrets,
            "begin_hosted_call": hosted.begin,
            "accept_hosted_call": hosted.accept,
            "end_hosted_call": hosted.end,
            "describe_comfyui": comfyui.describe,
        }

    async def call(self, name: str, *arguments: Any) -> Any:
        """Answer the call ``name``. ``Unsupported``: a newer replica asks for one that is not
        there."""
        if (answer := self._calls.get(name)) is not None:
            return await answer(*arguments)
        raise Unsupported(f"This version of the ingress has no call {name}. Update it first.")

    async def record_lines(self, report: Report, reply: ReportReply) -> None:
        """Append what requests have printed to their logs, if the replica holds their leases."""
        for lease, lines in report.lines:
            if lease not in reply.fenced:
                await self._queue.log(lease.request_id, *lines)

    async def record_last_lines(self, finish: Finish) -> None:
        """Append what a request printed since the last report, before its end is recorded. A
        finish that is repeated appends them again."""
        if await self._leases.is_held(finish.lease_key):
            await self._queue.log(finish.lease_key.request_id, *finish.lines)

    async def _file_ticket(
        self, lease_key: LeaseKey, tenant: str, number: int, media_type: str
    ) -> UploadTicket:
        if not 0 <= number < MAX_FILES:
            raise Unsupported(f"A request has at most {MAX_FILES} files.")
        if not await self._leases.is_held(lease_key):
            raise Fenced("Only the holder of a lease gets a ticket.")
        request = await self._queue.get(tenant, lease_key.request_id)
        # No other type has an extension, by which files are served.
        known = media_type if media_type in UPLOAD_EXTENSIONS else DEFAULT_MEDIA_TYPE
        access, policy = request.file_access, request.upload_policy
        ticket = self._terms.file_ticket(lease_key, tenant, number, known, access, policy)
        if policy is None:  # otherwise the file goes to the client's own bucket
            small = () if ticket.thumbnail is None else (ticket.thumbnail.key,)
            await self._leases.expect_files([ticket.key, *small])
        return ticket

    async def _named_secrets(self, lease_key: LeaseKey, tenant: str) -> tuple[Secret, ...]:
        if not await self._leases.is_held(lease_key):
            raise Fenced("Only the holder of a lease gets secrets.")
        # As it is stored now: it may have fallen back to another endpoint a moment ago.
        request = await self._queue.current(tenant, lease_key.request_id)
        endpoint = self._terms.endpoint(request.runs_at)
        names = () if endpoint is None else named_by(endpoint.options)
        if endpoint is None or not names:
            return ()
        # The process of an app serves all tenants, so it gets nothing of one of them.
        owner = tenant if endpoint.executor.is_hosted else INSTALLATION
        return tuple(await self._secrets.read(owner, names))


class ReplicaCalls:
    """Base of the ingress's deployment: Serve requires the calls to be its methods."""

    _tracing: Tracing | None = None  # None: spans are off
    _metrics: Metrics
    _queue: PostgresQueue
    _rest: Rest
    _lines: LocalRpcServer
    _weight_peers: PostgresWeightPeers
    _signer: ClaimSigner
    _services: Services
    _weights: PostgresWeightBook
    _internal_url: str  # at which replicas reach the ingress
    _executor_calls: ExecutorCalls

    async def line(self) -> str:
        """Path of the Unix socket where this process takes the same calls at a lower cost; empty if
        it has none."""
        return self._lines.path

    async def remote_line(self) -> tuple[str, int, bytes] | None:
        """The same for replicas on other machines: address, port, and the key to be proved."""
        return self._lines.remote

    async def announce(self, presence: Presence) -> Work | None:
        self._rest.note_call()
        return await self._queue.announce(presence)

    async def ask(self, ask: Ask) -> Work:
        return await self._queue.ask(ask)

    async def report(self, report: Report) -> ReportReply:
        self._rest.note_call()
        self._metrics.record_engine_usage(report.pool, report.computed)
        record_attempts(self._tracing, self._metrics, report)
        reply = await self._queue.report(report)
        if report.lines:
            await self._executor_calls.record_lines(report, reply)
        return reply

    async def finish(self, finish: Finish) -> Verdict:
        self._rest.note_call()
        if finish.lines:
            await self._executor_calls.record_last_lines(finish)
        return await self._queue.finish(finish)

    async def finish_all(self, finishes: Sequence[Finish]) -> Sequence[Verdict | BaseException]:
        """Apply each finish separately. Return for each its verdict or its error."""
        calls = (self.finish(finish) for finish in finishes)
        answers = await asyncio.gather(*calls, return_exceptions=True)
        return [portable(answer) for answer in answers]

    async def hand_back(
        self,
        lease_key: LeaseKey,
        replica_id: str,
        reason: str,
        snapshot: StoredSnapshot | None = None,
    ) -> Verdict:
        return await self._queue.hand_back(lease_key, replica_id, reason, snapshot)

    async def offer_weights(self, offer: WeightOffer) -> bytes:
        return await self._weight_peers.offer_weights(offer)

    async def weight_peers(self, node_id: str, name: str) -> tuple[str, ...]:
        return await self._weight_peers.weight_peers(node_id, name)

    async def weight_file(self, digest: str) -> str:
        key = await self._weights.key_of(digest)
        return f"{self._internal_url}/files/{key}" if key else ""

    async def sign_claim(self, lease_key: LeaseKey, claim: bytes) -> bytes:
        return await self._signer.sign(lease_key, claim)

    async def report_decisions(
        self, lease_key: LeaseKey, decisions: tuple[Mapping[str, Any], ...]
    ) -> None:
        await self._services.record_output_decisions(lease_key.request_id, decisions)

    async def report_unsigned(self, lease_key: LeaseKey, reason: str) -> None:
        self._signer.report_unsigned(lease_key, reason)

    async def for_executor(self, name: str, *arguments: Any) -> Any:
        """Answer a call of a replica that runs apps; see ``domain.ports.AppSource``."""
        return await self._executor_calls.call(name, *arguments)
