"""Lease port over a Serve handle."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from serve_app.domain.artifact import UploadTicket
from serve_app.domain.batcher import Batcher
from serve_app.domain.executors.secrets import Secret
from serve_app.domain.lease import (
    Ask,
    Finish,
    LeaseKey,
    Presence,
    Report,
    ReportReply,
    Verdict,
    WeightOffer,
    Work,
)
from serve_app.domain.progress import PartialResult, StoredSnapshot

BATCH_WAIT_S = 0.02
"""Longest wait for the call in flight. After that the next call is sent anyway: the one in flight
may hang in a process that is stuck."""


class HandleLeasePort:
    """Lease port, and directory of peers, that calls the ingress deployment. Call it from one event
    loop only: a handle's router is not thread-safe. Errors are the ingress's own, or Ray's if it is
    unreachable.

    A handle call costs half a millisecond of CPU on both sides (measured), more than its payload.
    So outcomes that are finished while another call is in flight share the next call.
    """

    def __init__(self, handle: Any) -> None:
        self._handle = handle
        self._methods: dict[str, Any] = {}
        self._finishes: Batcher[Finish, Verdict] = Batcher(
            self._finish_all,
            in_flight=1,
            patience_s=BATCH_WAIT_S,
            retry_singly=False,
            cancel_unwanted=True,
        )

    async def socket_path(self) -> str:
        """Path of an ingress process's local socket. Empty if it has none."""
        return await self._call("line")

    async def remote_line(self) -> tuple[str, int, bytes] | None:
        """Address, port and key of an ingress process for other machines. None if it has none."""
        return await self._call("remote_line")

    async def announce(self, presence: Presence) -> Work | None:
        return await self._call("announce", presence)

    async def ask(self, ask: Ask) -> Work:
        return await self._call("ask", ask)

    async def report(self, report: Report) -> ReportReply:
        return await self._call("report", report)

    async def finish(self, finish: Finish) -> Verdict:
        return await self._finishes.call(finish)

    async def hand_back(
        self,
        lease_key: LeaseKey,
        replica_id: str,
        reason: str,
        snapshot: StoredSnapshot | None = None,
    ) -> Verdict:
        return await self._call("hand_back", lease_key, replica_id, reason, snapshot)

    async def offer_weights(self, offer: WeightOffer) -> bytes:
        return await self._call("offer_weights", offer)

    async def weight_peers(self, node_id: str, name: str) -> tuple[str, ...]:
        return await self._call("weight_peers", node_id, name)

    async def weight_file(self, digest: str) -> str:
        return await self._call("weight_file", digest)

    async def sign_claim(self, lease_key: LeaseKey, claim: bytes) -> bytes:
        return await self._call("sign_claim", lease_key, claim)

    async def report_unsigned(self, lease_key: LeaseKey, reason: str) -> None:
        await self._call("report_unsigned", lease_key, reason)

    async def report_decisions(
        self, lease_key: LeaseKey, decisions: tuple[Mapping[str, Any], ...]
    ) -> None:
        await self._call("report_decisions", lease_key, decisions)

    async def file_ticket(
        self, lease_key: LeaseKey, tenant: str, number: int, media_type: str
    ) -> UploadTicket:
        return await self.for_executor("file_ticket", lease_key, tenant, number, media_type)

    async def app_bundle(self, digest: str) -> bytes:
        return await self.for_executor("app_bundle", digest)

    async def add_partials(
        self, lease_key: LeaseKey, values: Sequence[PartialResult], first: int
    ) -> None:
        await self.for_executor("add_partials", lease_key, values, first)

    async def secrets(self, lease_key: LeaseKey, tenant: str) -> tuple[Secret, ...]:
        return await self.for_executor("secrets", lease_key, tenant)

    async def for_executor(self, name: str, *arguments: Any) -> Any:
        """Answer to a call that only replicas of executors make."""
        return await self._call("for_executor", name, *arguments)

    async def _finish_all(self, finishes: Sequence[Finish]) -> Sequence[Verdict | BaseException]:
        if len(finishes) == 1:
            return [await self._call("finish", finishes[0])]
        return await self._call("finish_all", finishes)

    async def _call(self, name: str, *arguments: Any) -> Any:
        method = self._methods.get(name)
        if method is None:
            # Cached, because Serve creates a new one for each method lookup on a handle. Pickle in
            # C: the arguments are ours, and cloudpickle inspects each object in Python.
            method = self._methods[name] = self._handle.options(
                method_name=name, request_serialization="pickle", response_serialization="pickle"
            )
        response = method.remote(*arguments)
        try:
            return await response
        except asyncio.CancelledError:
            # Otherwise the ingress continues a call whose reply is never read.
            response.cancel()
            raise
