"""The loop that calls the webhooks of an outbox: claim, call, and settle or try again later."""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Generic, Protocol, TypeVar

from serve_app.domain.errors import DarkroomError
from serve_app.webhooks.sender import Sender
from serve_app.webhooks.signing import SignedMessage

log = logging.getLogger(__name__)

TIMEOUT_S = 15.0
CLAIMED_S = 60.0
MOST_AT_ONCE = 20


class Notice(Protocol):
    """What one webhook is about."""

    @property
    def url(self) -> str: ...

    @property
    def tries(self) -> int:
        """This one included."""
        ...


NoticeT = TypeVar("NoticeT", bound=Notice)


class OutboxWorker(ABC, Generic[NoticeT]):
    """Calls the webhooks of notices that are due. The ingress processes share them by claiming.

    A subclass says where notices come from, and what is sent about one.
    """

    def __init__(
        self, sender: Sender, waits_s: Sequence[float], subject: str, look_every_s: float
    ) -> None:
        """``waits_s``: between the tries; after the last one a notice is given up. ``subject``: for
        the log, such as "budgets"."""
        self._sender = sender
        self._waits_s = waits_s
        self._subject = subject
        self._look_every_s = look_every_s
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        if self._task is None:
            self._task = asyncio.create_task(self._forever(), name=f"webhooks of {self._subject}")

    async def aclose(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def look(self) -> None:
        """Call the webhooks that are due, once each."""
        due = await self._claim(CLAIMED_S, MOST_AT_ONCE)
        await asyncio.gather(*map(self._call, due))

    @abstractmethod
    async def _claim(self, claimed_s: float, limit: int) -> Sequence[NoticeT]:
        """Notices that are due. No other process gets them for ``claimed_s``."""

    @abstractmethod
    async def _settle(self, notice: NoticeT, again_after_s: float | None) -> None:
        """Record the end of a try. None: it was delivered, or is given up."""

    @abstractmethod
    def _message(self, notice: NoticeT) -> SignedMessage:
        """What to send: the same for every try."""

    async def _call(self, notice: NoticeT) -> None:
        message = self._message(notice)
        answer = await self._sender.post(notice.url, message, TIMEOUT_S)
        again_s = None
        if not answer.accepted:
            log.warning(
                "A webhook about %s was not delivered (%s): %s",
                self._subject,
                message.request_id,
                answer.error,
            )
            if not answer.final and notice.tries <= len(self._waits_s):
                again_s = max(self._waits_s[notice.tries - 1], answer.again_after_s or 0.0)
        await self._settle(notice, again_s)

    async def _forever(self) -> None:
        while True:
            try:
                await self.look()
            except DarkroomError as error:
                log.warning("Webhooks about %s are delayed: %s", self._subject, error.message)
            except Exception:
                log.exception("Webhooks about %s are delayed by an error", self._subject)
            await asyncio.sleep(self._look_every_s)
