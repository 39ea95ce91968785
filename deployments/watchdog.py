"""What hangs in a replica: one turn of the engine, or a load of which nothing is heard."""

from __future__ import annotations

from collections.abc import Mapping

from deployments.attempt import Attempt
from deployments.phase import Phase
from deployments.workshop import Workshop
from serve_app.domain.lease import Held

LOADS = 2.0
"""Times as long as the engine may be silent: a load says nothing while it reads a disk."""


class Watchdog:
    """A thread that hangs cannot be ended. So the replica is replaced, and those who wait for that
    thread fail before, each by itself, and are tried again elsewhere: of a replica that closes,
    they would be handed back, which counts for nothing, and hang the next."""

    def __init__(self, attempts: Mapping[Held, Attempt], stuck_after_s: float) -> None:
        self._attempts = attempts
        self._stuck_after_s = stuck_after_s

    def hangs(self, workshop: Workshop) -> str:
        """What does, in a sentence; empty: nothing."""
        return self._engine_hangs(workshop) or self._load_hangs(workshop)[1]

    def give_up(self, workshop: Workshop) -> None:
        """Those who wait for what hangs."""
        if why := self._engine_hangs(workshop):
            for attempt in self._attempts.values():
                if attempt.phase is Phase.IN_ENGINE:
                    attempt.give_up(why)
        name, why = self._load_hangs(workshop)
        for attempt in self._attempts.values() if why else ():
            waits_for = workshop.served.get(attempt.lease.endpoint.id)
            if attempt.phase is Phase.LOADING and waits_for == name:
                attempt.give_up(why)

    def _engine_hangs(self, workshop: Workshop) -> str:
        stuck_s = workshop.engine.stuck_s
        if stuck_s <= self._stuck_after_s:
            return ""
        return (
            f"One turn of the engine takes {stuck_s:.0f} s by now, ten times as long as any "
            "before: it hangs, and the replica is replaced."
        )

    def _load_hangs(self, workshop: Workshop) -> tuple[str, str]:
        name, silent_s = workshop.residency.silent()
        if silent_s <= LOADS * self._stuck_after_s:
            return name, ""
        return name, (
            f"For {silent_s:.0f} s nothing was heard of the load of {name}: it hangs, and the "
            "replica is replaced."
        )
