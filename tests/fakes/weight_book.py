"""Registered weights in memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from serve_app.domain.audit.acts import Actor
from serve_app.domain.ports import Clock
from serve_app.registry.postgres import MAX_TRIES, TRIED_TOO_OFTEN
from serve_app.registry.records import (
    UNFINISHED,
    CheckedWeights,
    NewWeights,
    TenantWeights,
    WeightQuota,
    WeightState,
    still_used,
)

Note = Callable[[Actor, str, str, Mapping[str, Any]], None]
Name = tuple[str, str]


@dataclass
class FakeWeightBook:
    clock: Clock
    note: Note = lambda *_: None
    unfinished: Callable[[str], int] = lambda _: 0  # requests of an endpoint
    _stored: dict[Name, TenantWeights] = field(default_factory=dict)
    _keys: dict[str, str] = field(default_factory=dict)
    _whole: set[str] = field(default_factory=set)
    _held: dict[Name, tuple[str, datetime, int]] = field(default_factory=dict)
    _changes: int = 0

    async def add(self, new: NewWeights, quota: WeightQuota, actor: Actor) -> str:
        name = new.tenant, new.name
        mine = [
            each
            for each in self._stored.values()
            if each.tenant == new.tenant
            and not (each.name == new.name and each.state is WeightState.REFUSED)
        ]
        taken = {each.endpoint for key, each in self._stored.items() if key != name}
        problems = {
            "exists": any(each.name == new.name for each in mine),
            "unfinished": sum(not each.state.final for each in mine) >= quota.max_unfinished,
            "bytes": sum(each.size for each in mine) >= quota.max_bytes,
            "endpoints": new.endpoint is not None
            and sum(each.endpoint is not None for each in mine) >= quota.max_endpoints,
            "endpoint": new.endpoint is not None and new.endpoint in taken,
        }
        for problem, found in problems.items():
            if found:
                return problem
        now = self.clock.now()
        self._stored[name] = TenantWeights(
            tenant=new.tenant, name=new.name, kind=new.kind, base=new.base, base_weights="",
            source=dict(new.source), state=WeightState.WAITING, problem="", size=0, done=0,
            facts={}, endpoint=new.endpoint, scale=new.scale, public=False, created_at=now,
            changed_at=now,
        )  # fmt: skip
        self._held.pop(name, None)
        detail = {"tenant": new.tenant, "base": new.base, "source": dict(new.audited_source)}
        self.note(actor, "weights.add", "/".join(name), detail)
        return ""

    async def find(self, tenant: str, name: str) -> TenantWeights | None:
        return self._stored.get((tenant, name))

    async def page(self, tenant: str, limit: int) -> Sequence[TenantWeights]:
        found = [
            each
            for each in self._stored.values()
            if each.tenant == tenant or (each.public and each.state is WeightState.READY)
        ]
        found.sort(key=lambda each: each.created_at, reverse=True)
        found.sort(key=lambda each: each.tenant != tenant)
        return found[:limit]

    async def remove(self, tenant: str, name: str, actor: Actor, *, force: bool = False) -> bool:
        found = self._stored.get((tenant, name))
        if found is None:
            return False
        number = 0 if found.endpoint is None else self.unfinished(found.endpoint)
        if number and not force:
            raise still_used(name, number)
        del self._stored[tenant, name]
        self._changes += 1
        self.note(actor, "weights.remove", f"{tenant}/{name}", {"tenant": tenant})
        return True

    async def publish(self, tenant: str, name: str, actor: Actor, *, public: bool) -> bool:
        found = self._stored.get((tenant, name))
        if found is None or found.state is not WeightState.READY:
            return False
        self._stored[tenant, name] = replace(found, public=public)
        self.note(
            actor,
            "weights.publish" if public else "weights.unpublish",
            f"{tenant}/{name}",
            {"tenant": tenant},
        )
        return True

    async def used(self, tenant: str) -> int:
        return sum(each.size for each in self._stored.values() if each.tenant == tenant)

    async def key_of(self, digest: str) -> str | None:
        return self._keys[digest] if digest in self._whole else None

    async def version(self) -> str:
        return str(self._changes or "")

    async def endpoints(self) -> Sequence[TenantWeights]:
        ready = [each for each in self._stored.values() if each.state is WeightState.READY]
        return [each for each in ready if each.endpoint is not None]

    async def take(
        self, worker: str, lease_s: float, except_of: Collection[str] = ()
    ) -> TenantWeights | None:
        now = self.clock.now()
        under_way: Counter[str] = Counter()
        due: dict[Name, tuple[int, datetime]] = {}
        for name, each in self._stored.items():
            _, until, tries = self._held.get(name, ("", each.created_at, 0))
            if each.state in UNFINISHED and until > now:
                under_way[each.tenant] += 1
            elif each.state in UNFINISHED and each.tenant not in except_of:
                due[name] = tries, until
        if not due:
            return None
        name = min(due, key=lambda each: (under_way[each[0]], *due[each]))
        tries, _ = due[name]
        self._held[name] = worker, now + timedelta(seconds=lease_s), tries + 1
        if tries >= MAX_TRIES:
            self._end(name, problem=TRIED_TOO_OFTEN)
            return None
        self._stored[name] = taken = replace(self._stored[name], state=WeightState.FETCHING, done=0)
        return taken

    async def report(
        self, job: TenantWeights, worker: str, state: WeightState, done: int, lease_s: float
    ) -> bool:
        name = job.tenant, job.name
        if not self._holds(name, worker):
            return False
        _, _, tries = self._held[name]
        self._held[name] = worker, self.clock.now() + timedelta(seconds=lease_s), tries
        self._stored[name] = replace(self._stored[name], state=state, done=done)
        return True

    async def reserve(self, job: TenantWeights, worker: str, size: int, max_bytes: int) -> bool:
        name = job.tenant, job.name
        if not self._holds(name, worker):
            return False
        own = self._stored[name]
        if await self.used(job.tenant) - own.size + size > max_bytes:
            return False
        self._stored[name] = replace(own, size=size)
        return True

    async def adopt(self, digest: str, key: str, size: int) -> str:
        del size
        return self._keys.setdefault(digest, key)

    async def accept(self, job: TenantWeights, worker: str, checked: CheckedWeights) -> bool:
        name = job.tenant, job.name
        if not self._holds(name, worker):
            return False
        self._changes += 1
        self._whole |= {each.digest for each in checked.files}
        self._stored[name] = replace(
            self._stored[name], state=WeightState.READY, kind=checked.kind,
            base_weights=checked.base_weights, facts=dict(checked.facts),
            files=tuple(checked.files),
        )  # fmt: skip
        return True

    async def refuse(self, job: TenantWeights, worker: str, problem: str) -> None:
        if self._holds((job.tenant, job.name), worker):
            self._end((job.tenant, job.name), problem=problem)

    async def put_back(self, job: TenantWeights, worker: str, again_s: float) -> None:
        name = job.tenant, job.name
        if not self._holds(name, worker):
            return
        _, _, tries = self._held[name]
        self._held[name] = "", self.clock.now() + timedelta(seconds=again_s), tries - 1
        self._stored[name] = replace(self._stored[name], state=WeightState.WAITING, done=0)

    async def collect(self) -> None:
        """Nothing: files of the fake stay."""

    def _holds(self, name: Name, worker: str) -> bool:
        there = self._stored.get(name)
        holder = self._held.get(name, ("", None, 0))[0]
        return there is not None and not there.state.final and holder == worker

    def _end(self, name: Name, problem: str) -> None:
        there = self._stored[name]
        self._stored[name] = replace(there, state=WeightState.REFUSED, problem=problem, size=0)
