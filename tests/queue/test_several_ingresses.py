"""Two ingress processes on one database share work and notify each other."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import Any

import psycopg
import pytest

from serve_app.domain.lease import Signal, SignalKind, Verdict
from serve_app.domain.progress import Progress, Stage
from serve_app.domain.request import CancelVerdict, State
from serve_app.queue.heartbeat import UNFOLLOWED_REPORT_S
from serve_app.queue.queue import PostgresQueue
from serve_app.queue.store.notify import COUNT_LISTENERS
from tests.contract.test_events_contract import collect_events
from tests.contract.waiting import eventually
from tests.queue.database import LONG_LEASES, QUICK, Ingress
from tests.queue.requests import TENANT, ask, failure, lease, make_finish, new, report

# No periodic task runs within a test and no ask ends: a reaction comes from a notification.
PATIENT = replace(LONG_LEASES, check_interval_s=600.0, ask_wait_s=600.0)
HEARD_S = 60.0
"""Limit for a reaction to a notification."""


async def test_an_ask_here_gets_what_is_submitted_there(ingress: Ingress) -> None:
    here, there = await ingress(PATIENT), await ingress(PATIENT)
    asking = asyncio.create_task(here.ask(ask(1)))
    await asyncio.sleep(0.2)
    request = await there.submit(new())
    work = await asyncio.wait_for(asking, HEARD_S)
    assert [granted.request_id for granted in work.leases] == [request.id]


async def test_a_wait_here_ends_with_a_finish_there(ingress: Ingress) -> None:
    here, there = await ingress(PATIENT), await ingress(PATIENT)
    request = await here.submit(new())
    granted = await lease(there)
    waiting = asyncio.create_task(here.wait(TENANT, request.id, 600.0))
    await asyncio.sleep(0.2)
    await there.finish(make_finish(granted.key))
    assert (await asyncio.wait_for(waiting, HEARD_S)).state is State.SUCCEEDED


async def test_a_cancel_there_ends_an_ask_here(ingress: Ingress) -> None:
    here, there = await ingress(PATIENT), await ingress(PATIENT)
    request = await there.submit(new())
    lease_key = (await lease(here)).key
    asking = asyncio.create_task(here.ask(ask(0, lease_key)))
    await asyncio.sleep(0.2)
    assert await there.cancel(TENANT, request.id) is CancelVerdict.REQUESTED
    heard = await asyncio.wait_for(asking, HEARD_S)
    assert heard.signals == (Signal(SignalKind.CANCEL, lease_key),)


async def test_one_that_comes_while_the_others_are_counted_is_told_of_changes(
    ingress: Ingress, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = await ingress(PATIENT)
    notifier, announced = there.parts.state.notifier, asyncio.Event()
    receive, value = notifier._on_payload, notifier._database.value

    def hear(payload: str) -> None:
        receive(payload)
        announced.set()

    async def count_late(sql: str, *given: Any) -> Any:
        counted = await value(sql, *given)
        if sql != COUNT_LISTENERS:
            return counted
        await ingress(PATIENT)
        await asyncio.wait_for(announced.wait(), HEARD_S)
        return counted

    monkeypatch.setattr(notifier, "_on_payload", hear)
    monkeypatch.setattr(notifier._database, "value", count_late)
    await notifier.count_listeners()
    monkeypatch.undo()
    sent = asyncio.Event()
    monkeypatch.setattr(notifier._metrics, "notification_sent", sent.set)
    notifier.notify(changed=[new().id])
    await asyncio.wait_for(sent.wait(), 10)


async def test_a_replica_that_reports_here_learns_who_follows_there(ingress: Ingress) -> None:
    here, there = await ingress(LONG_LEASES), await ingress(LONG_LEASES)
    request = await there.submit(new())
    lease_key = (await lease(here)).key
    running = report(lease_key, progress=[(lease_key, Progress(Stage.DENOISING, 1, 8))])
    assert (await here.report(running)).next_in_s == UNFOLLOWED_REPORT_S

    async def followed() -> bool:
        await there.get(TENANT, request.id)
        return (await here.report(running)).next_in_s == 0.0

    await eventually(followed, 60.0)


async def test_lost_notifications_cost_only_time(ingress: Ingress) -> None:
    def deaf(queue: PostgresQueue) -> None:
        queue.parts.state.notifier._received = lambda _: None  # type: ignore[method-assign]

    patient = replace(LONG_LEASES, ask_wait_s=30.0)
    here, there = await ingress(patient, deaf), await ingress(patient, deaf)
    asking = asyncio.create_task(here.ask(ask(1)))
    await asyncio.sleep(0.2)
    request = await there.submit(new())
    waiting = asyncio.create_task(there.wait(TENANT, request.id, 60.0))
    (granted,) = (await asking).leases
    lease_key = granted.key
    asking = asyncio.create_task(here.ask(ask(0, lease_key)))
    await asyncio.sleep(0.1)
    await there.cancel(TENANT, request.id)
    assert (await asking).signals == (Signal(SignalKind.CANCEL, lease_key),)
    await here.finish(make_finish(lease_key, failure("cancelled")))
    assert (await waiting).state is State.CANCELLED


async def test_a_watcher_here_misses_nothing_of_what_happens_there_also_unheard(
    ingress: Ingress,
) -> None:
    def deaf(queue: PostgresQueue) -> None:
        queue.parts.state.notifier._received = lambda _: None  # type: ignore[method-assign]

    patient = replace(LONG_LEASES, ask_wait_s=30.0)
    here, there = await ingress(patient, deaf), await ingress(patient, deaf)
    request = await there.submit(new())
    watching = asyncio.create_task(collect_events(here, request.id))
    await here.get(TENANT, request.id)
    granted = await lease(there)
    await there.finish(make_finish(granted.key))
    states = [data["state"] for _, name, data in await watching if name == "state"]
    assert states == ["queued", "running", "succeeded"]


async def test_a_status_here_is_right_soon_after_a_change_there(ingress: Ingress) -> None:
    here, there = await ingress(PATIENT), await ingress(PATIENT)
    request = await here.submit(new())
    granted = await lease(there)
    await there.finish(make_finish(granted.key))
    end = time.monotonic() + HEARD_S
    while (await here.get(TENANT, request.id)).state is not State.SUCCEEDED:
        assert time.monotonic() < end
        await asyncio.sleep(0.01)


async def test_the_end_that_one_process_tells_can_be_read_at_another_at_once(
    ingress: Ingress,
) -> None:
    """A client asks one for the status, and another for the output."""

    def deaf(queue: PostgresQueue) -> None:
        queue.parts.state.notifier._received = lambda _: None  # type: ignore[method-assign]

    here, there = await ingress(PATIENT, deaf), await ingress(PATIENT, deaf)
    request = await here.submit(new())
    granted = await lease(there)
    await there.finish(make_finish(granted.key))
    assert (await there.get(TENANT, request.id)).state is State.SUCCEEDED
    assert (await here.current(TENANT, request.id)).state is State.SUCCEEDED
    assert (await here.get(TENANT, request.id)).state is State.SUCCEEDED


async def test_work_is_shared_and_nothing_is_leased_twice(ingress: Ingress) -> None:
    queues = [await ingress(LONG_LEASES) for _ in range(2)]
    finished: list[str] = []

    async def replica(queue: PostgresQueue, name: str) -> None:
        while len(finished) < 120:
            for granted in (await queue.ask(ask(4, replica=name))).leases:
                assert (
                    await queue.finish(make_finish(granted.key, replica=name)) is Verdict.ACCEPTED
                )
                finished.append(granted.request_id)

    async def client(queue: PostgresQueue) -> list[str]:
        return [(await queue.submit(new())).id for _ in range(30)]

    replicas = [replica(queue, f"r{n}") for n, queue in enumerate(queues * 3)]
    clients = [client(queue) for queue in queues * 2]
    ids, *_ = await asyncio.gather(asyncio.gather(*clients), *replicas)
    assert sorted(finished) == sorted(id_ for batch in ids for id_ in batch)


async def test_several_reapers_end_a_lease_once(ingress: Ingress) -> None:
    queues = [await ingress(QUICK) for _ in range(3)]
    request = await queues[0].submit(new())
    lease_key = (await lease(queues[1])).key

    async def ended() -> bool:
        return (await queues[2].get(TENANT, request.id)).state is State.QUEUED

    await eventually(ended)
    await asyncio.sleep(3 * QUICK.check_interval_s)
    lines = await queues[2].lines(TENANT, request.id)
    assert len([line for line in lines if "queued again" in line.message]) == 1
    assert (await queues[2].report(report(lease_key))).fenced == (lease_key,)


async def test_an_ingress_that_has_just_started_ends_no_lease(ingress: Ingress) -> None:
    old = await ingress(replace(QUICK, lease_s=0.3))
    request = await old.submit(new())
    await lease(old)
    await ingress.aclose()
    await asyncio.sleep(0.5)
    limits = replace(QUICK, lease_s=1.5)
    began = time.monotonic()
    young = await ingress(limits)
    while (state := (await young.get(TENANT, request.id)).state) is State.RUNNING:  # noqa: ASYNC110
        await asyncio.sleep(0.05)
    assert state is State.QUEUED
    assert time.monotonic() - began >= limits.lease_s


TENANTS = 320


@pytest.mark.long
@pytest.mark.parametrize(
    ("ingresses", "replicas"), [(4, 2), pytest.param(8, 1, marks=pytest.mark.long)]
)
async def test_no_replica_waits_while_requests_of_many_tenants_are_queued(
    ingress: Ingress, ingresses: int, replicas: int
) -> None:
    limits = replace(PATIENT, ask_wait_s=5.0)  # so that the last asks end
    queues = [await ingress(limits) for _ in range(ingresses)]
    for n in range(TENANTS):
        await queues[0].submit(new(tenant=f"tenant-{n}"))
    left, empty = TENANTS, 0

    async def replica(queue: PostgresQueue, name: str) -> None:
        nonlocal left, empty
        while left:
            leases = (await queue.ask(ask(1, replica=name))).leases
            # What the other replicas may be leasing at this moment is not queued.
            if not leases and left > ingresses * replicas:
                empty += 1
            for granted in leases:
                left -= 1
                await asyncio.sleep(0.005)
                await queue.finish(make_finish(granted.key, replica=name))

    await asyncio.gather(
        *(replica(queue, f"r{i}-{n}") for i, queue in enumerate(queues) for n in range(replicas))
    )
    assert empty == 0


async def test_requests_that_another_process_is_leasing_do_not_make_a_pool_drained(
    ingress: Ingress,
) -> None:
    here = await ingress(PATIENT)
    first = await here.submit(new(tenant="first"))
    second = await here.submit(new(tenant="second"))
    async with await psycopg.AsyncConnection.connect(ingress.conninfo) as other:
        await other.execute("SELECT FROM requests WHERE tenant = 'first' FOR UPDATE")
        got = await asyncio.wait_for(here.ask(ask(1)), HEARD_S)
        assert [granted.request_id for granted in got.leases] == [second.id]
        asking = asyncio.create_task(here.ask(ask(1)))
        await asyncio.sleep(0.02)
    got = await asyncio.wait_for(asking, HEARD_S)
    assert [granted.request_id for granted in got.leases] == [first.id]
