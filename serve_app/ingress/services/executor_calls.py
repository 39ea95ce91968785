"""Calls of replicas that run apps: tickets for files, the code of apps, and what requests print."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from serve_app.domain.artifact import UploadTicket
from serve_app.domain.errors import Fenced, Unsupported
from serve_app.domain.lease import Finish, LeaseKey, Report, ReportReply
from serve_app.domain.ports import LeaseTerms, Queue
from serve_app.queue.transactions.catalog_entries import AppBundles
from serve_app.storage.keys import DEFAULT_MEDIA_TYPE, UPLOAD_EXTENSIONS

MAX_FILES = 64  # of an attempt


class ExecutorCalls:
    """Answers ``domain.ports.AppSource`` for replicas."""

    def __init__(
        self,
        terms: LeaseTerms,
        bundles: AppBundles,
        queue: Queue,
        is_held: Callable[[LeaseKey], Awaitable[bool]],
    ) -> None:
        self.bundles = bundles
        self._terms = terms
        self._queue = queue
        self._is_held = is_held

    async def call(self, name: str, *arguments: Any) -> Any:
        """Answer the call ``name``. ``Unsupported``: a newer replica asks for one that is not
        there."""
        if name == "file_ticket":
            return await self._file_ticket(*arguments)
        if name == "app_bundle":
            return await self.bundles.read(*arguments)
        raise Unsupported(f"This version of the ingress has no call {name}. Update it first.")

    async def record_lines(self, report: Report, reply: ReportReply) -> None:
        """Append what requests have printed to their logs, if the replica holds their leases."""
        for held, lines in report.lines:
            if held not in reply.fenced:
                await self._queue.log(held.request_id, *lines)

    async def record_last_lines(self, finish: Finish) -> None:
        """Append what a request printed since the last report, before its end is recorded. A
        finish that is repeated appends them again."""
        if await self._is_held(finish.held):
            await self._queue.log(finish.held.request_id, *finish.lines)

    async def _file_ticket(self, held: LeaseKey, number: int, media_type: str) -> UploadTicket:
        if not 0 <= number < MAX_FILES:
            raise Unsupported(f"A request has at most {MAX_FILES} files.")
        if not await self._is_held(held):
            raise Fenced("Only the holder of a lease gets a ticket.")
        # No other type has an extension, by which files are served.
        known = media_type if media_type in UPLOAD_EXTENSIONS else DEFAULT_MEDIA_TYPE
        return self._terms.file_ticket(held, number, known)
