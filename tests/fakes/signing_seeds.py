"""Keys that sign webhooks, in memory."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence

from serve_app.domain.audit.acts import Actor
from serve_app.domain.ports import Clock
from serve_app.domain.webhook import SigningSeed
from serve_app.queue.transactions.signing_keys import NOTICE_S


class FakeSigningSeeds:
    def __init__(self, clock: Clock, note: Callable[..., None] = lambda *_: None) -> None:
        """``note`` writes the audit log."""
        self._note = note
        self._clock = clock
        self._made: list[tuple[str, bytes, float]] = []  # kid, seed, signs from

    async def all(self) -> Sequence[SigningSeed]:
        now = self._clock.monotonic()
        if not any(at <= now for *_, at in self._made):
            self._make(now)
        return [SigningSeed(kid, seed, at <= now, now - at) for kid, seed, at in self._made]

    async def rotate(self, actor: Actor, *, at_once: bool) -> None:
        now = self._clock.monotonic()
        if at_once:
            self._made = []
            self._make(now)
            self._rotated(actor, at_once=True)
        elif all(at <= now for *_, at in self._made):
            old = [at for *_, at in self._made if at < now - NOTICE_S]
            self._made = [entry for entry in self._made if entry[2] >= max(old, default=0.0)]
            self._make(now + NOTICE_S)
            self._rotated(actor, at_once=False)

    def _rotated(self, actor: Actor, *, at_once: bool) -> None:
        self._note(actor, "webhook.rotate", self._made[-1][0], {"at_once": at_once})

    def _make(self, at: float) -> None:
        self._made.append((f"whk_{secrets.token_hex(8)}", secrets.token_bytes(32), at))
        self._made.sort(key=lambda seed: seed[2])
