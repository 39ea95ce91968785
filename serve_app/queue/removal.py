"""Removal of requests: cancelled by their client, deleted by id or by age, or redacted."""

from __future__ import annotations

from collections.abc import Sequence

from serve_app.domain.audit.acts import Actor
from serve_app.domain.request import CancelVerdict, State
from serve_app.postgres.database import Database
from serve_app.queue.after_commit import AfterCommit
from serve_app.queue.state.request_cache import RequestCache
from serve_app.queue.store import messages
from serve_app.queue.store.config import Retention
from serve_app.queue.store.rows import known_id
from serve_app.queue.transactions.cancel import cancel_request
from serve_app.queue.transactions.deletion import Deletion
from serve_app.queue.transactions.garbage import GarbageFiles
from serve_app.queue.transactions.redaction import Redaction


class Removal:
    """Cancel, delete and redact requests, and publish that they changed."""

    def __init__(
        self,
        database: Database,
        retention: Retention,
        garbage: GarbageFiles,
        requests: RequestCache,
        after: AfterCommit,
    ) -> None:
        self._database = database
        self._garbage = garbage
        self._requests = requests
        self._after = after
        self._deletion = Deletion(database, retention)
        self._redaction = Redaction(database)
        self.delete_expired_keys = self._deletion.delete_expired_keys

    async def cancel(
        self, tenant: str, request_id: str, actor: Actor | None = None
    ) -> CancelVerdict:
        """Cancel a queued request, or ask the replica of a running one to stop."""
        removed = await cancel_request(self._database, tenant, known_id(request_id), actor)
        if removed is None:
            await self._requests.get(tenant, request_id)
            return CancelVerdict.ALREADY_FINAL
        self._after.publish_removal([removed], messages.cancellation())
        if removed.state is State.RUNNING:
            return CancelVerdict.REQUESTED
        return CancelVerdict.CANCELLED

    async def delete(
        self, tenant: str, request_id: str, actor: Actor | None = None
    ) -> Sequence[str]:
        """Delete an ended request. Returns the storage keys that are no longer needed."""
        # The attempts tell which files they left, so collect these first.
        await self._garbage.collect()
        unwanted = await self._deletion.delete(tenant, request_id, actor)
        self._after.publish_deletion([known_id(request_id)])
        return unwanted

    async def delete_aged(self) -> None:
        """Delete the requests whose retention is over."""
        self._after.publish_deletion(await self._deletion.delete_aged())

    async def redact(self) -> None:
        """Redact the inputs and outcomes that are due."""
        self._after.publish_deletion(await self._redaction.redact_due())
