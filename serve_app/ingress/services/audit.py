"""Entries of the audit log about calls that change nothing: failed logins, reads of tenants by
operators, and signed URLs.

An attacker can cause failed logins without end, so they are counted in memory and written once a
minute: a row for each address, up to a limit, and one row for all others.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv6Address, ip_address, ip_network
from pathlib import Path
from typing import Any

from serve_app.domain.audit.acts import Actor, NewAct
from serve_app.domain.errors import DarkroomError, Misconfigured
from serve_app.domain.operations import Operations
from serve_app.domain.ports import Clock
from serve_app.periodic_task import PeriodicTask
from serve_app.telemetry.queue_metrics import QueueMeter
from serve_app.tenants.recent_keys import RecentKeys

log = logging.getLogger(__name__)

WRITE_INTERVAL_S = 60.0
MAX_ADDRESSES = 32
"""Addresses with failed logins that are told apart in an interval: at most as many rows, and one
more."""
MAX_KEY_IDS = 5
OTHERS = ""
READ_AGAIN_S = 60.0
"""The same read by the same caller is not recorded again for so long: dashboards poll."""
REMEMBERED_READS = 10_000


@dataclass(slots=True)
class FailedLogins:
    """Failed logins from one address since the last write."""

    number: int = 0
    key_ids: list[str] = field(default_factory=list[str])  # the first few that were named

    def add(self, number: int, key_ids: list[str]) -> None:
        self.number += number
        for key_id in key_ids:
            if key_id and key_id not in self.key_ids and len(self.key_ids) < MAX_KEY_IDS:
                self.key_ids.append(key_id)


class AuditTrail:
    """Records calls in the audit log. Use on one event loop."""

    def __init__(
        self,
        operations: Operations,
        clock: Clock,
        metrics: QueueMeter | None = None,
        anchors: Path | None = None,
    ) -> None:
        """``anchors``: file for the last hashes of the chain; None: they are written nowhere."""
        self._operations = operations
        self._clock = clock
        self._failed: dict[str, FailedLogins] = {}
        self._read: RecentKeys[bool] = RecentKeys(REMEMBERED_READS, READ_AGAIN_S)
        self._anchors = anchors
        self._anchored = 0  # place in the chain that was written last
        work = {"audit": self.write, "audit_anchor": self.write_anchor}
        self._rounds = PeriodicTask(WRITE_INTERVAL_S, work, metrics)

    def start(self) -> None:
        self._rounds.start()

    async def aclose(self) -> None:
        """Stop, and write what was counted."""
        await self._rounds.aclose()
        with contextlib.suppress(DarkroomError):
            await self.write()

    def login_failed(self, address: str, key_id: str) -> None:
        """Count a call with an invalid key or token. ``key_id``: the id that it named, or empty."""
        self._count(source_of(address), FailedLogins(1, [key_id]))

    async def tenant_read(self, actor: Actor, tenant: str, call: str, request_id: str) -> None:
        """Record that an operator reads another tenant's data, before it is answered.

        ``call``: the name of the route. ``request_id``: empty for a list.
        """
        name = "\0".join((actor.key_id, actor.address, tenant, call, request_id))
        if self._read.get(name, self._clock.monotonic()):
            return
        detail = {"call": call} | ({"request_id": request_id} if request_id else {})
        await self._operations.record([NewAct(actor, "tenant.read", tenant, detail)])
        self._read.put(name, True, self._clock.monotonic())  # noqa: FBT003

    async def record_signed_url(
        self, actor: Actor, tenant: str, key: str, expires_in_s: float | None
    ) -> None:
        """Record that a URL of a private file is signed, before it is answered. ``expires_in_s``:
        None for one that does not expire."""
        name = "\0".join(("sign", actor.key_id, actor.address, key, str(expires_in_s)))
        if self._read.get(name, self._clock.monotonic()):
            return
        detail = {"tenant": tenant, "expires_in": expires_in_s}
        await self._operations.record([NewAct(actor, "file.sign", key, detail)])
        self._read.put(name, True, self._clock.monotonic())  # noqa: FBT003

    async def record_refused_input(self, tenant: str, endpoint: str, reason: str) -> None:
        """Record that the safety policy refused an input; the same only once a minute."""
        name = "\0".join(("safety", tenant, endpoint, reason))
        if self._read.get(name, self._clock.monotonic()):
            return
        self._read.put(name, True, self._clock.monotonic())  # noqa: FBT003
        detail = {"endpoint": endpoint, "reason": reason}
        await self._operations.record([NewAct(Actor(""), "safety.input", tenant, detail)])

    async def record_output_decisions(
        self, request_id: str, decisions: Sequence[Mapping[str, Any]]
    ) -> None:
        """Record what the safety policy decided about files of a request."""
        await self._operations.record(
            [
                NewAct(Actor(""), "safety.output", request_id, dict(decision))
                for decision in decisions
            ]
        )

    async def write(self) -> None:
        """Write the failed logins since the last call."""
        counted, self._failed = self._failed, {}
        acts = [
            NewAct(
                Actor("", address),
                "login.fail",
                "",
                {"number": failures.number, "key_ids": failures.key_ids}
                | ({} if address else {"addresses": "others"}),
            )
            for address, failures in counted.items()
        ]
        try:
            await self._operations.record(acts)
        except DarkroomError:
            for address, logins in counted.items():
                self._count(address, logins)
            raise

    async def write_anchor(self) -> None:
        """Append the last place and hash of the chain to the file, if there are new acts."""
        if self._anchors is None:
            return
        last = await self._operations.seal_audit()
        if last is None or last.sequence == self._anchored:
            return
        at = self._clock.now().isoformat(timespec="seconds")
        try:
            await asyncio.to_thread(_append, self._anchors, f"{at} {last.sequence}:{last.hash}\n")
        except OSError as error:
            raise Misconfigured(
                f"The hash of the audit log cannot be written to {self._anchors}: {error}. Correct "
                "DARKROOM_AUDIT_ANCHOR_FILE, or the rights of its directory."
            ) from error
        self._anchored = last.sequence

    def _count(self, address: str, failed: FailedLogins) -> None:
        if address not in self._failed and len(self._failed) >= MAX_ADDRESSES:
            address = OTHERS
        self._failed.setdefault(address, FailedLogins()).add(failed.number, failed.key_ids)


def _append(path: Path, line: str) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(line)


def source_of(address: str) -> str:
    """An IPv4 address, or the /64 network of an IPv6 address: one client has all of it."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return OTHERS
    if isinstance(parsed, IPv6Address) and not parsed.is_loopback:
        return str(ip_network((parsed, 64), strict=False))
    return str(parsed)
