"""Registered weights in memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from serve_app.domain.audit.acts import Actor
from serve_app.domain.ports import Clock
from serve_app.jobs.jobs import Job
from serve_app.registry.records import (
    CheckedWeights,
    NewWeights,
    TenantWeights,
    WeightQuota,
    WeightState,
    job_name,
    weights_in_use,
)
from tests.fakes.jobs import FakeJobs

Note = Callable[[Actor, str, str, Mapping[str, Any]], None]
Name = tuple[str, str]


@dataclass
class FakeWeightBook:
    clock: Clock
    note: Note = lambda *_: None
    unfinished: Callable[[str], int] = lambda _: 0  # requests of an endpoint
    jobs: FakeJobs = field(init=False)
    _stored: dict[Name, TenantWeights] = field(default_factory=dict)
    _keys: dict[str, str] = field(default_factory=dict)
    _whole: set[str] = field(default_factory=set)
    _changes: int = 0

    def __post_init__(self) -> None:
        self.jobs = FakeJobs(self.clock, self.note)

    async def add(self, new: NewWeights, quota: WeightQuota, actor: Actor) -> str:
        name = new.tenant, new.name
        mine = [
            entry
            for entry in self._stored.values()
            if entry.tenant == new.tenant
            and not (entry.name == new.name and entry.state is WeightState.REFUSED)
        ]
        taken = {entry.endpoint for key, entry in self._stored.items() if key != name}
        problems = {
            "exists": any(entry.name == new.name for entry in mine),
            "unfinished": sum(not entry.state.final for entry in mine) >= quota.max_unfinished,
            "bytes": sum(entry.size for entry in mine) >= quota.max_bytes,
            "endpoints": new.endpoint is not None
            and sum(entry.endpoint is not None for entry in mine) >= quota.max_endpoints,
            "endpoint": new.endpoint is not None and new.endpoint in taken,
        }
        for problem, is_met in problems.items():
            if is_met:
                return problem
        now = self.clock.now()
        self._stored[name] = TenantWeights(
            tenant=new.tenant, name=new.name, kind=new.kind, base=new.base, base_weights="",
            source=dict(new.source), state=WeightState.WAITING, problem="", size=0, done=0,
            facts={}, endpoint=new.endpoint, scale=new.scale, public=False, created_at=now,
            changed_at=now,
        )  # fmt: skip
        self.jobs.put("weights", "/".join(name), new.tenant)
        detail = {"tenant": new.tenant, "base": new.base, "source": dict(new.audited_source)}
        self.note(actor, "weights.add", "/".join(name), detail)
        return ""

    async def find(self, tenant: str, name: str) -> TenantWeights | None:
        return self._stored.get((tenant, name))

    async def page(self, tenant: str, limit: int) -> Sequence[TenantWeights]:
        entries = [
            entry
            for entry in self._stored.values()
            if entry.tenant == tenant or (entry.public and entry.state is WeightState.READY)
        ]
        entries.sort(key=lambda entry: entry.created_at, reverse=True)
        entries.sort(key=lambda entry: entry.tenant != tenant)
        return entries[:limit]

    async def remove(self, tenant: str, name: str, actor: Actor, *, force: bool = False) -> bool:
        weights = self._stored.get((tenant, name))
        if weights is None:
            return False
        number = 0 if weights.endpoint is None else self.unfinished(weights.endpoint)
        if number and not force:
            raise weights_in_use(name, number)
        del self._stored[tenant, name]
        self.jobs.remove("weights", f"{tenant}/{name}")
        self._changes += 1
        self.note(actor, "weights.remove", f"{tenant}/{name}", {"tenant": tenant})
        return True

    async def publish(self, tenant: str, name: str, actor: Actor, *, public: bool) -> bool:
        weights = self._stored.get((tenant, name))
        if weights is None or weights.state is not WeightState.READY:
            return False
        self._stored[tenant, name] = replace(weights, public=public)
        self.note(
            actor,
            "weights.publish" if public else "weights.unpublish",
            f"{tenant}/{name}",
            {"tenant": tenant},
        )
        return True

    async def used_bytes(self, tenant: str) -> int:
        return sum(entry.size for entry in self._stored.values() if entry.tenant == tenant)

    async def key_of(self, digest: str) -> str | None:
        return self._keys[digest] if digest in self._whole else None

    async def version(self) -> str:
        return str(self._changes or "")

    async def endpoints(self) -> Sequence[TenantWeights]:
        ready = [entry for entry in self._stored.values() if entry.state is WeightState.READY]
        return [entry for entry in ready if entry.endpoint is not None]

    async def report(self, job: Job, state: WeightState, done: int) -> TenantWeights | None:
        if not self._holds(job):
            return None
        name = job_name(job)
        self._stored[name] = replace(self._stored[name], state=state, done=done)
        return self._stored[name]

    async def reserve(self, job: Job, size: int, max_bytes: int) -> bool:
        if not self._holds(job):
            return False
        own = self._stored[job_name(job)]
        if await self.used_bytes(job.tenant) - own.size + size > max_bytes:
            return False
        self._stored[job_name(job)] = replace(own, size=size)
        return True

    async def adopt(self, digest: str, key: str, size: int) -> str:
        del size
        return self._keys.setdefault(digest, key)

    async def accept(self, job: Job, checked: CheckedWeights) -> bool:
        if not self._holds(job):
            return False
        self._changes += 1
        self._whole |= {file.digest for file in checked.files}
        self._stored[job_name(job)] = replace(
            self._stored[job_name(job)], state=WeightState.READY, kind=checked.kind,
            base_weights=checked.base_weights, facts=dict(checked.facts),
            files=tuple(checked.files),
        )  # fmt: skip
        return True

    async def refuse(self, job: Job, problem: str) -> None:
        if self._holds(job):
            self._stored[job_name(job)] = replace(
                self._stored[job_name(job)], state=WeightState.REFUSED, problem=problem, size=0
            )

    async def collect(self) -> None:
        """Nothing: files of the fake stay."""

    def _holds(self, job: Job) -> bool:
        there = self._stored.get(job_name(job))
        return there is not None and not there.state.final and self.jobs.is_held(job)
