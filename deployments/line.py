"""A replica's end of a line to an ingress process."""

from __future__ import annotations

import asyncio
from typing import Any

from serve_app.domain.errors import Unavailable
from serve_app.domain.frames import Frames

PATIENCE_S, ASK_PATIENCE_S = 9.0, 25.0
"""So long no call takes to be answered; an ask waits for work there, others for nothing. Who gives
up after that (``ReplicaConfig`` says when) has met an ingress process that is stuck."""


class Line(Frames):
    """Calls of methods of the lease port. ``Unavailable`` when the line breaks before the answer;
    whether the call was carried out is not known then."""

    def __init__(
        self, patience_s: float = PATIENCE_S, ask_patience_s: float = ASK_PATIENCE_S
    ) -> None:
        super().__init__()
        self._patience_s = patience_s
        self._ask_patience_s = ask_patience_s
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._number = 0
        self._leaving = False

    @property
    def takes_calls(self) -> bool:
        """False also when the ingress process at the other end has said that it closes."""
        return self.open and not self._leaving

    async def call(self, method: str, *arguments: object) -> Any:
        """A call that is cancelled is cancelled at the other end too."""
        if not self.takes_calls:
            raise _broken()
        loop = asyncio.get_running_loop()
        self._number += 1
        number = self._number
        stuck_at = loop.time() + (self._ask_patience_s if method == "ask" else self._patience_s)
        answer: asyncio.Future[Any] = loop.create_future()
        self.send((number, method, arguments))
        self._waiting[number] = answer
        try:
            return await answer
        except asyncio.CancelledError:
            if self._waiting.pop(number, None) is not None:
                self._give_up(number, stuck=loop.time() > stuck_at)
            raise

    def received(self, message: Any) -> None:
        number, succeeded, answer = message
        if number == 0:
            self._leaving = True
        elif (waiting := self._waiting.pop(number, None)) is not None and not waiting.done():
            if succeeded:
                waiting.set_result(answer)
            else:
                waiting.set_exception(answer)

    def lost(self) -> None:
        waiting, self._waiting = self._waiting, {}
        for answer in waiting.values():
            if not answer.done():
                answer.set_exception(_broken())

    def _give_up(self, number: int, *, stuck: bool) -> None:
        self.send((number, None, ()))
        if stuck:
            self.close()


def _broken() -> Unavailable:
    return Unavailable("The line to the ingress broke.")
