"""Watchdog of a replica: detects an engine turn or a load that hangs."""

from __future__ import annotations

from collections.abc import Mapping

from deployments.replica.attempt import Attempt
from deployments.replica.attempt_state import Phase
from deployments.replica.resources import ReplicaResources
from serve_app.domain.lease import LeaseKey

LOAD_FACTOR = 2.0
"""Factor for loads, which may be silent longer than the engine: reading a disk reports nothing."""


class Watchdog:
    """Detects hanging threads. They cannot be ended, so the replica is replaced. Attempts that wait
    for such a thread fail first, one by one, and are retried elsewhere. If they were handed back by
    the closing replica instead, that would not count as a failure, and they would hang the next."""

    def __init__(self, attempts: Mapping[LeaseKey, Attempt], stuck_after_s: float) -> None:
        self._attempts = attempts
        self._stuck_after_s = stuck_after_s

    def hangs(self, resources: ReplicaResources) -> str:
        """Description of what hangs. Empty if nothing does."""
        return self._engine_hangs(resources) or self._load_hangs(resources)[1]

    def fail_waiting(self, resources: ReplicaResources) -> None:
        """Fail the attempts that wait for what hangs."""
        if why := self._engine_hangs(resources):
            for attempt in self._attempts.values():
                if attempt.state.phase is Phase.IN_ENGINE:
                    attempt.fail_hung(why)
        name, why = self._load_hangs(resources)
        for attempt in self._attempts.values() if why else ():
            waits_for = resources.weights_by_endpoint.get(attempt.lease.endpoint.id)
            if attempt.state.phase is Phase.LOADING and waits_for == name:
                attempt.fail_hung(why)

    def _engine_hangs(self, resources: ReplicaResources) -> str:
        stuck_s = resources.engine.stuck_s
        if stuck_s <= self._stuck_after_s:
            return ""
        return (
            f"One turn of the engine has taken {stuck_s:.0f} s so far, ten times longer than any "
            "before: it hangs, and the replica is replaced."
        )

    def _load_hangs(self, resources: ReplicaResources) -> tuple[str, str]:
        name, silent_s = resources.residency.longest_silence()
        if silent_s <= LOAD_FACTOR * self._stuck_after_s:
            return name, ""
        return name, (
            f"The load of {name} has not reported for {silent_s:.0f} s: it hangs, and the "
            "replica is replaced."
        )
