"""Costs of the control plane's work, in CPU milliseconds, with their origin."""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(frozen=True, slots=True)
class Cost:
    """CPU of one piece of work, by the station that does it."""

    ingress: float = 0.0  # ms in one ingress process
    database: float = 0.0  # ms in PostgreSQL, over all of its processes
    control_store: float = 0.0  # ms in Ray's GCS
    origin: str = "measured"  # or assumed, and from what


@dataclass(frozen=True, slots=True)
class Costs:
    """Defaults: ``python -m benchmarks.control_costs`` on a busy machine with two cores. Costs that
    are not measured by it say so."""

    submit: Cost = Cost(0.19, 0.12)
    lease: Cost = Cost(0.14, 0.13)
    finish: Cost = Cost(0.24, 0.16)
    report: Cost = Cost(0.47, 0.34)  # of eight leases, with progress
    chores: Cost = Cost(20.0, 6.7)  # a second, of each ingress, over what costs per replica
    http: Cost = Cost(0.6, origin="assumed: the ingress's 1.13 ms of a run, less the queue's part")
    line: Cost = Cost(0.12, origin="measured, docs/adr/0013: a call over TCP")
    follow: Cost = Cost(0.3, origin="assumed: one status or event to a client")
    liveness: Cost = Cost(
        0.012, control_store=0.004, origin="measured, benchmarks.actor_list: one actor of the list"
    )

    def origins(self) -> dict[str, str]:
        """Origin of each cost by its name."""
        return {field.name: getattr(self, field.name).origin for field in fields(self)}
