"""Health of this installation: readiness, its doctor, and what Ray's cluster can run."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

import ray

from serve_app.diagnosis import checks as diagnosis
from serve_app.domain.errors import DarkroomError, Misconfigured, Unavailable
from serve_app.domain.ports import Clock
from serve_app.settings import PoolConfig
from serve_app.storage.self_test import StepResult

log = logging.getLogger(__name__)

Check = Callable[[], Awaitable[None]]
NO_CHECKS: Mapping[str, Check] = MappingProxyType({})
FRESH_S = 1.0
PATIENCE_S = 5.0


ReadinessStatus = Literal["ok", "no_submits", "unavailable"]


class Readiness:
    """Runs named checks, at most once in ``FRESH_S``.

    A check passes by returning. It fails by raising, or by taking longer than ``PATIENCE_S``.
    """

    def __init__(
        self,
        checks: Mapping[str, Check],
        clock: Clock,
        *,
        submits: Mapping[str, Check] = NO_CHECKS,
        notices: Mapping[str, Check] = NO_CHECKS,
    ) -> None:
        """``checks``: of what all calls need. ``submits``: of what only submits need. ``notices``:
        of what no call needs, and an operator should correct."""
        self._of_all, self._of_submits = checks.keys(), submits.keys()
        self._checks = {**checks, **submits, **notices}
        self._clock = clock
        self._lock = asyncio.Lock()
        self._asked_at = float("-inf")
        self._last: dict[str, str] = {}

    async def report(self) -> dict[str, str]:
        """Return for each check ``ok``, or its error message."""
        async with self._lock:
            now = self._clock.monotonic()
            if now - self._asked_at >= FRESH_S:
                results = await asyncio.gather(*map(self._run, self._checks.values()))
                self._last = dict(zip(self._checks, results, strict=True))
                self._asked_at = now
            return self._last

    def status(self, report: Mapping[str, str]) -> ReadinessStatus:
        """Calls that can be served by a report: all, all but submits, or none."""
        failed = {name for name, result in report.items() if result != "ok"}
        if failed & self._of_all:
            return "unavailable"
        return "no_submits" if failed & self._of_submits else "ok"

    async def _run(self, check: Check) -> str:
        try:
            async with asyncio.timeout(PATIENCE_S):
                await check()
        except DarkroomError as error:
            return error.message
        except TimeoutError:
            return f"no response within {PATIENCE_S:g} s"
        except Exception as error:
            # An unexpected error in one check must not break the readiness page.
            log.exception("a readiness check failed in an unexpected way")
            return f"{type(error).__name__}: {error}"
        return "ok"


# The checks of ``darkroom doctor``, in this process.

EXAMINATION_S = 60.0
"""Time for all checks. A provider, a storage or a database that does not answer takes seconds."""


class Examination:
    """Runs the checks of the doctor in a thread. Calls meanwhile get the findings of that run."""

    def __init__(self, checks: Callable[[], Iterable[diagnosis.Check]] = tuple) -> None:
        self._checks = checks
        self._running: asyncio.Task[Sequence[StepResult]] | None = None

    async def report(self) -> Sequence[StepResult]:
        """What each check found. ``Unavailable``: they have not ended in time."""
        if self._running is None or self._running.done():
            self._running = asyncio.create_task(asyncio.to_thread(self._examine), name="doctor")
        try:
            async with asyncio.timeout(EXAMINATION_S):
                return await asyncio.shield(self._running)
        except TimeoutError:
            raise Unavailable(
                f"The checks have not ended within {EXAMINATION_S:g} s. Run `darkroom doctor` on "
                "the machine of the ingress: it prints each result when it is known."
            ) from None

    def _examine(self) -> Sequence[StepResult]:
        return [*diagnosis.findings(self._checks())]


# Check that a cluster has one node if the database or the storage is tied to one machine.

NodeIds = Callable[[], Sequence[str]]


def alive_node_ids() -> Sequence[str]:
    """Ids of the Ray cluster's live nodes. Asking Ray blocks."""
    return [node["NodeID"] for node in ray.nodes() if node["Alive"]]


class SingleNodeCheck:
    """Refuses a second node. ``database``: it is embedded. ``storage``: it is a directory."""

    def __init__(self, *, database: bool, storage: bool, nodes: NodeIds = alive_node_ids) -> None:
        self._ties = [
            *(
                ["PostgreSQL is embedded (set DARKROOM_DATABASE_URL where the ingress runs)"]
                if database
                else []
            ),
            *(["artifacts are in a directory (set DARKROOM_S3_BUCKET)"] if storage else []),
        ]
        self._nodes = nodes

    async def check(self) -> None:
        """Raise ``Misconfigured`` if the Ray cluster has more than one node and there is a tie."""
        if not self._ties:
            return
        count = len(await asyncio.to_thread(self._nodes))
        if count > 1:
            raise Misconfigured(
                f"This Ray cluster has {count} nodes, but this Darkroom can use only one: "
                f"{'; '.join(self._ties)}."
            )


# Check for pools that no node of the Ray cluster can run, and the resources that they lack.

#: Amount of each resource of a node, by Ray's names.
Resources = Mapping[str, float]
NodeResources = Callable[[], Sequence[Resources]]

_CLASS_OF_GPU = "accelerator_type:"  # Ray's prefix for it, with a token amount of 1 a node
_ADD = "Add such a node (an autoscaler may be doing it), or change the pool's resources."


def alive_node_resources() -> Sequence[Resources]:
    """All resources of each live node, taken or free. Asking Ray blocks."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def free_resources() -> Resources:
    """Free resources over all nodes. Asking Ray blocks."""
    free: dict[str, Any] = ray.available_resources()
    return free


class PlacementCheck:
    """Possible placement of the configured pools' replicas."""

    def __init__(
        self,
        pools: Mapping[str, PoolConfig],
        nodes: NodeResources = alive_node_resources,
        free: Callable[[], Resources] = free_resources,
    ) -> None:
        self.pools = pools  # may be replaced at any time
        self._nodes = nodes
        self._free = free

    async def problems(self, hosted: Collection[str]) -> dict[str, str]:
        """Return a sentence for each pool that is not in ``hosted`` and cannot get a replica.

        Either no node is large enough, or others use the resources.
        """
        missing = self._missing(hosted)
        if not missing:
            return {}
        nodes, free = await asyncio.gather(
            asyncio.to_thread(self._nodes), asyncio.to_thread(self._free)
        )
        return _about(
            {name: _lack(needs, nodes) or _shortage(needs, free) for name, needs in missing.items()}
        )

    async def unplaceable(self, hosted: Collection[str]) -> dict[str, str]:
        """Return a sentence for each pool that is not in ``hosted`` and fits on no node, even if
        that were empty. For clients: others may free what they use at any moment."""
        missing = self._missing(hosted)
        nodes = await asyncio.to_thread(self._nodes) if missing else ()
        return _about({name: _lack(needs, nodes) for name, needs in missing.items()})

    def _missing(self, hosted: Collection[str]) -> Mapping[str, Resources]:
        return {name: _needs(pool) for name, pool in self.pools.items() if name not in hosted}


def _about(sentences: Mapping[str, str]) -> dict[str, str]:
    return {name: f"Pool {name}: {text}" for name, text in sentences.items() if text}


def _needs(pool: PoolConfig) -> dict[str, float]:
    devices = pool.devices_per_replica
    needs = {"CPU": devices * pool.num_cpus, "GPU": devices * pool.num_gpus, **pool.resources}
    if pool.accelerator is not None:
        needs[_CLASS_OF_GPU + pool.accelerator] = 0.001
    return {name: amount for name, amount in needs.items() if amount > 0}


def _lack(needs: Resources, nodes: Sequence[Resources]) -> str:
    """Reason why no node could run a replica even if it were empty; empty text if one could."""
    if any(all(node.get(name, 0.0) >= amount for name, amount in needs.items()) for node in nodes):
        return ""
    most = {name: max((node.get(name, 0.0) for node in nodes), default=0.0) for name in needs}
    short = [name for name, amount in needs.items() if most[name] < amount]
    count = f"{len(nodes)} node{'' if len(nodes) == 1 else 's'}"
    if not short:
        return (
            f"a replica needs {_resources_text(needs)} on one node, but none of {count} has all of "
            f"it. {_ADD}"
        )
    needed = _resources_text({name: needs[name] for name in short})
    largest = ", ".join(
        f"{most[name]:g} {name}" for name in short if not name.startswith(_CLASS_OF_GPU)
    )
    has = (
        f"the most that one of {count} has is {largest}" if largest else f"none of {count} has one"
    )
    return f"a replica needs {needed}, but {has}. {_ADD}"


def _shortage(needs: Resources, free: Resources) -> str:
    """Missing free resources in words; empty text if enough are free."""
    short = [name for name, amount in needs.items() if free.get(name, 0.0) < amount]
    if not short:
        return ""
    needed = _resources_text({name: needs[name] for name in short})
    available = ", ".join(f"{free.get(name, 0.0):g} {_resource_name(name)}" for name in short)
    return (
        f"a replica needs {needed}, but only {available} is free in the whole cluster: others use "
        "the rest. Stop them, add a node, or reduce another pool's replicas."
    )


def _resources_text(needs: Resources) -> str:
    return ", ".join(
        _resource_name(name)
        if name.startswith(_CLASS_OF_GPU)
        else f"{amount:g} {_resource_name(name)}"
        for name, amount in needs.items()
    )


def _resource_name(resource: str) -> str:
    if resource.startswith(_CLASS_OF_GPU):
        return f"a GPU of the class {resource.removeprefix(_CLASS_OF_GPU)}"
    return resource


Rows = Callable[[], Awaitable[Sequence[Mapping[str, Any]]]]  # JSON objects
Targets = Callable[[Collection[str]], Awaitable[Mapping[str, int]]]
PlacementProblems = Callable[[Collection[str]], Awaitable[Mapping[str, str]]]


async def _no_rows() -> Sequence[Mapping[str, Any]]:
    return ()


async def _no_targets(pools: Collection[str]) -> Mapping[str, int]:  # noqa: ARG001 the port's own
    return {}


async def _no_problems(hosted: Collection[str]) -> Mapping[str, str]:  # noqa: ARG001 the port's own
    return {}


@dataclass(frozen=True, slots=True)
class Health:
    """What the status page and the readiness check report."""

    readiness: Readiness
    replicas: Rows = _no_rows
    events: Rows = _no_rows  # starts and ends of processes, newest first
    placement_problems: PlacementProblems = _no_problems  # by pool: a sentence that says why
    targets: Targets = _no_targets  # replicas that the scaling policies want, by pool
    examination: Examination = field(default_factory=Examination)
