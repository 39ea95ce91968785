"""Which calls of many tenants are worked on, and how much memory and time their bodies get, in any
sequence of events."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.domain.errors import Overloaded
from serve_app.domain.sharing import admission
from serve_app.domain.sharing.admission import (
    ACTIVE_S,
    CALLS,
    LEAST_CALLS,
    MAX_WAITING_BODIES,
    MAX_WAITING_CALLS,
    RESTS,
    AdmissionControl,
    BodyMemory,
    CallAdmission,
    OpenCalls,
)
from tests.fakes.clock import FakeClock

MIB = 2**20
TENANTS = "abc"
NUMBER = st.integers(0, 1000)
EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("begin"), st.sampled_from(TENANTS)),
        st.tuples(st.just("begin"), st.sampled_from(TENANTS)),  # twice, or few would ever wait
        st.tuples(st.just("end"), NUMBER),
        st.tuples(st.just("cancel"), NUMBER),
        st.tuples(st.just("pass"), st.sampled_from([ACTIVE_S / 2, ACTIVE_S * 2])),
    ),
    min_size=10,
    max_size=80,
)


async def settle() -> None:
    """Return once all that can go on without time or another event has done so."""
    for _ in range(10):
        await asyncio.sleep(0)


@dataclass(slots=True)
class Calls:
    """Calls of tenants that are admitted, or wait for it."""

    clock: FakeClock = field(default_factory=FakeClock)
    control: AdmissionControl = field(init=False)
    working: list[tuple[str, CallAdmission]] = field(
        default_factory=list[tuple[str, CallAdmission]]
    )
    waiting: list[tuple[str, asyncio.Task[None]]] = field(
        default_factory=list[tuple[str, asyncio.Task[None]]]
    )

    timers: list[tuple[float, Callable[[], None]]] = field(
        default_factory=list[tuple[float, Callable[[], None]]]
    )

    def __post_init__(self) -> None:
        self.control = AdmissionControl(self.clock, 100 * MIB, self._later)

    def _later(self, seconds: float, act: Callable[[], None]) -> None:
        self.timers.append((self.clock.monotonic() + seconds, act))

    async def passes(self, seconds: float) -> None:
        self.clock.advance(seconds)
        due = [timer for timer in self.timers if timer[0] <= self.clock.monotonic()]
        self.timers = [timer for timer in self.timers if timer not in due]
        for _, act in due:
            act()
        await self.look()

    def working_count(self, tenant: str) -> int:
        return sum(owner == tenant for owner, _ in self.working)

    async def begin(self, tenant: str) -> None:
        before = self.working_count(tenant)
        task = asyncio.create_task(self._call(tenant))
        self.waiting.append((tenant, task))
        await settle()
        others = any(owner == tenant for owner, _ in self.waiting[:-1])
        if before < LEAST_CALLS and not others and not self.timers:
            assert task.done(), "a tenant with little in work waited"
        self.waiting = [entry for entry in self.waiting if not entry[1].done()]

    async def _call(self, tenant: str) -> None:
        admitted = await self.control.admit(tenant)
        self.working.append((tenant, admitted))

    async def end(self, number: int) -> None:
        if self.working:
            _, admitted = self.working.pop(number % len(self.working))
            admitted.end()
            admitted.end()  # again has no effect
            await self.look()

    async def cancel(self, number: int) -> None:
        if self.waiting:
            _, task = self.waiting.pop(number % len(self.waiting))
            task.cancel()
            await self.look()

    async def look(self) -> None:
        await settle()
        self.waiting = [entry for entry in self.waiting if not entry[1].done()]
        for tenant in {owner for owner, _ in self.waiting}:
            few = self.working_count(tenant) < LEAST_CALLS and not self.timers
            assert not few, "a tenant waits, has little in work, and no place rests"


@given(EVENTS)
async def test_nobody_waits_beside_free_turns_and_all_calls_end(
    events: list[tuple[str, str | int | float]],
) -> None:
    calls = Calls()
    for what, value in events:
        if what == "begin":
            await calls.begin(str(value))
        elif what == "end":
            await calls.end(int(value))
        elif what == "cancel":
            await calls.cancel(int(value))
        else:
            await calls.passes(float(value))
    while calls.working or calls.timers:
        await calls.end(0)
        await calls.passes(100.0)
    assert not calls.waiting


async def test_a_tenant_alone_has_all_its_calls_in_work() -> None:
    calls = Calls()
    for _ in range(5 * CALLS):
        await calls.begin("a")
    assert not calls.waiting


async def test_beside_another_tenant_calls_wait_in_their_order() -> None:
    calls = Calls()
    await calls.begin("b")
    for _ in range(CALLS):
        await calls.begin("a")
    assert calls.working_count("a") == CALLS // 2
    assert calls.working_count("b") == 1
    await calls.begin("b")
    assert calls.working_count("b") == 2, "the other tenant does not wait behind them"
    first, *others = [task for _, task in calls.waiting]
    await calls.end([owner for owner, _ in calls.working].index("a"))
    assert first.done()
    assert not any(task.done() for task in others)


async def test_calls_go_on_once_the_other_tenant_is_quiet() -> None:
    calls = Calls()
    await calls.begin("b")
    for _ in range(CALLS):
        await calls.begin("a")
    await calls.end([owner for owner, _ in calls.working].index("b"))
    assert calls.waiting
    calls.clock.advance(2 * ACTIVE_S)
    await calls.end(0)
    assert not calls.waiting


async def test_a_place_rests_beside_a_tenant_whose_calls_do_not_wait() -> None:
    calls = Calls()
    await calls.begin("b")
    for _ in range(CALLS):
        await calls.begin("a")
    calls.clock.advance(0.01)
    await calls.end([owner for owner, _ in calls.working].index("a"))
    assert calls.working_count("a") == CALLS // 2 - 1
    await calls.passes(0.99 * RESTS * 0.01)
    assert calls.working_count("a") == CALLS // 2 - 1
    await calls.begin("b")
    assert calls.working_count("b") == 2, "the other tenant has places of its own"
    await calls.passes(0.02 * RESTS * 0.01)
    assert calls.working_count("a") == CALLS // 2


async def test_no_place_rests_where_calls_of_all_tenants_wait() -> None:
    calls = Calls()
    for _ in range(CALLS):
        await calls.begin("a")
        await calls.begin("b")
    assert {owner for owner, _ in calls.waiting} == {"a", "b"}
    calls.clock.advance(0.01)
    waiting = len(calls.waiting)
    await calls.end([owner for owner, _ in calls.working].index("a"))
    assert len(calls.waiting) == waiting - 1
    assert not calls.timers


async def test_a_call_that_waits_for_its_client_is_not_counted() -> None:
    calls = Calls()
    await calls.begin("b")
    for _ in range(CALLS // 2):
        await calls.begin("a")
    (_, sending), *_ = [call for call in calls.working if call[0] == "a"]
    async with sending.suspend():
        await calls.begin("a")
        assert not calls.waiting
        calls.working.remove(("a", sending))
        await calls.end([owner for owner, _ in calls.working].index("a"))
    await calls.look()
    assert not calls.waiting


async def test_a_call_that_failed_while_it_was_suspended_is_not_counted_out_twice() -> None:
    calls = Calls()
    await calls.begin("b")
    for _ in range(CALLS // 2):
        await calls.begin("a")
    failing = next(admitted for tenant, admitted in calls.working if tenant == "a")
    with pytest.raises(ConnectionError):
        async with failing.suspend():
            raise ConnectionError
    failing.end()
    calls.working.remove(("a", failing))
    await calls.begin("a")
    assert not calls.waiting
    await calls.begin("a")
    assert calls.waiting


async def test_too_many_waiting_calls_are_refused() -> None:
    control = AdmissionControl(FakeClock(), MIB)
    await control.admit("b")
    waiting = [
        asyncio.create_task(control.admit("a")) for _ in range(CALLS // 2 + MAX_WAITING_CALLS)
    ]
    await settle()
    with pytest.raises(Overloaded, match="1000 of your calls already wait") as refused:
        await control.admit("a")
    assert refused.value.reason == "calls_limit"
    for task in waiting:
        task.cancel()
    await asyncio.wait(waiting)


# Rate of bodies


async def ended_after(
    seconds: float, tasks: list[asyncio.Task[None]], clock: FakeClock, wake: Callable[[], None]
) -> int:
    clock.advance(seconds)
    wake()
    await settle()
    return sum(task.done() for task in tasks)


@pytest.fixture
def wake(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Ends the pauses of paced bodies, as their time has passed by the fake clock."""
    sleeping: list[asyncio.Future[None]] = []

    async def sleep(_: float) -> None:
        turn = asyncio.get_running_loop().create_future()
        sleeping.append(turn)
        await turn

    def woken() -> None:
        for sleeper in sleeping:
            sleeper.set_result(None)
        sleeping.clear()

    monkeypatch.setattr(admission, "_pause", sleep)
    return woken


async def test_bodies_beside_another_tenant_keep_to_a_rate(wake: Callable[[], None]) -> None:
    clock = FakeClock()
    control = AdmissionControl(clock, MIB)
    await control.admit("b")  # and is at work all the time
    tasks = [asyncio.create_task(control.pace("a", 16 * MIB)) for _ in range(5)]
    await settle()
    assert [task.done() for task in tasks] == [True, True, False, False, False]
    assert await ended_after(1.9, tasks, clock, wake) == 2
    assert await ended_after(0.2, tasks, clock, wake) == 3
    assert tasks[2].done(), "in the order of their arrival"
    assert await ended_after(4.0, tasks, clock, wake) == 5


async def test_a_pause_does_not_pay_for_bodies(wake: Callable[[], None]) -> None:
    clock = FakeClock()
    control = AdmissionControl(clock, MIB)
    await control.admit("b")
    await control.pace("a", 64 * MIB)  # ahead by six seconds
    clock.advance(1.5)  # it does not count as active any more
    await control.admit("b")
    task = asyncio.create_task(control.pace("a", MIB))
    await settle()
    assert not task.done()
    assert await ended_after(4.0, [task], clock, wake) == 0
    assert await ended_after(1.0, [task], clock, wake) == 1


async def test_bodies_of_a_tenant_alone_are_not_paced() -> None:
    control = AdmissionControl(FakeClock(), MIB)
    for _ in range(100):
        await control.pace("a", 16 * MIB)


async def test_bodies_of_two_tenants_do_not_wait_for_each_other() -> None:
    control = AdmissionControl(FakeClock(), MIB)
    await control.admit("b")
    mallory = [asyncio.create_task(control.pace("a", 16 * MIB)) for _ in range(5)]
    await settle()
    await control.pace("b", 16 * MIB)
    assert not all(call.done() for call in mallory)
    for task in mallory:
        task.cancel()
    await asyncio.wait(mallory)


async def test_a_body_that_would_wait_for_too_long_is_refused_with_the_time() -> None:
    control = AdmissionControl(FakeClock(), MIB)
    await control.admit("b")
    await control.pace("a", 1000 * MIB)
    with pytest.raises(Overloaded, match="upload files first") as refused:
        await control.pace("a", 1)
    assert refused.value.retry_after_s == pytest.approx(123.0)


# Memory of bodies

SIZES = st.integers(1, 50)
BODIES = st.lists(
    st.one_of(
        st.tuples(st.just("begin"), st.sampled_from(TENANTS), SIZES),
        st.tuples(st.just("begin"), st.sampled_from(TENANTS), SIZES),
        st.tuples(st.just("end"), st.just(""), NUMBER),
        st.tuples(st.just("cancel"), st.just(""), NUMBER),
    ),
    min_size=10,
    max_size=80,
)
Body = tuple[str, int]


@dataclass(slots=True)
class Bodies:
    memory: BodyMemory = field(default_factory=lambda: BodyMemory(100))
    read: list[Body] = field(default_factory=list[Body])
    waiting: list[tuple[Body, asyncio.Task[None]]] = field(
        default_factory=list[tuple[Body, asyncio.Task[None]]]
    )

    def held_bytes(self, tenant: str) -> int:
        return sum(size for owner, size in self.read if owner == tenant)

    async def begin(self, tenant: str, size: int) -> None:
        newcomer = not self.held_bytes(tenant) and all(
            entry[0][0] != tenant for entry in self.waiting
        )
        fits = size <= 100 - self.memory.used_bytes
        task = asyncio.create_task(self._read((tenant, size)))
        self.waiting.append(((tenant, size), task))
        await self.look()
        assert task.done() or not (newcomer and fits), "a tenant waited beside free memory"

    async def _read(self, body: Body) -> None:
        await self.memory.reserve(*body)
        self.read.append(body)

    async def end(self, number: int) -> None:
        if self.read:
            self.memory.release(*self.read.pop(number % len(self.read)))
            await self.look()

    async def cancel(self, number: int) -> None:
        if self.waiting:
            self.waiting.pop(number % len(self.waiting))[1].cancel()
            await self.look()

    async def look(self) -> None:
        await settle()
        self.waiting = [entry for entry in self.waiting if not entry[1].done()]
        assert self.memory.used_bytes == sum(size for _, size in self.read) <= 100


@given(BODIES)
async def test_memory_of_bodies_is_never_exceeded_and_always_given_back(
    events: list[tuple[str, str, int]],
) -> None:
    bodies = Bodies()
    for what, tenant, value in events:
        if what == "begin":
            await bodies.begin(tenant, value)
        elif what == "end":
            await bodies.end(value)
        else:
            await bodies.cancel(value)
    while bodies.read:
        await bodies.end(0)
    assert not bodies.waiting
    assert bodies.memory.used_bytes == 0


async def test_a_tenant_leaves_memory_to_others() -> None:
    bodies = Bodies()
    for _ in range(20):
        await bodies.begin("a", 10)
    assert bodies.held_bytes("a") == 50
    await bodies.begin("b", 50)
    assert bodies.held_bytes("b") == 50


async def test_too_many_waiting_bodies_are_refused() -> None:
    bodies = Bodies()
    for _ in range(2 + MAX_WAITING_BODIES):
        await bodies.begin("a", 50)
    with pytest.raises(Overloaded, match="32 of your bodies already wait") as refused:
        await bodies.memory.reserve("a", 50)
    assert refused.value.reason == "body_memory"
    for _, task in bodies.waiting:
        task.cancel()
    await asyncio.wait([task for _, task in bodies.waiting])


OPENINGS = st.lists(
    st.one_of(
        st.tuples(st.just("begin"), st.sampled_from(TENANTS), NUMBER),
        st.tuples(st.just("begin"), st.sampled_from(TENANTS), NUMBER),
        st.tuples(st.just("end"), st.just(""), NUMBER),
    ),
    max_size=60,
)


@given(OPENINGS)
def test_open_calls_are_never_too_many_and_always_leave_room_for_another_tenant(
    events: list[tuple[str, str, int]],
) -> None:
    calls, tenants = OpenCalls(20), list[str]()
    for what, tenant, number in events:
        if what == "end":
            if tenants:
                calls.end(tenants.pop(number % len(tenants)))
            continue
        if tenants.count(tenant) < 20 - len(tenants):
            calls.begin(tenant)
            tenants.append(tenant)
        else:
            with pytest.raises(Overloaded) as refused:
                calls.begin(tenant)
            assert refused.value.reason == "open_calls_limit"
    assert calls.number == len(tenants) <= 20


def test_each_tenant_alone_may_have_half_of_the_open_calls() -> None:
    calls = OpenCalls(20)
    for _ in range(10):
        calls.begin("a")
    with pytest.raises(Overloaded, match="You have 10 open calls and streams"):
        calls.begin("a")
    for _ in range(5):
        calls.begin("b")
    with pytest.raises(Overloaded):
        calls.begin("b")
    calls.begin("c")
    calls.end("a")
    calls.end("a")
    calls.begin("b")


async def test_the_work_of_open_streams_takes_its_turn_beside_other_tenants() -> None:
    control = AdmissionControl(FakeClock(), 100 * MIB)
    beside = await control.admit("other")
    done, go_on = list[int](), asyncio.Event()

    async def work(number: int) -> None:
        async with control.turn("streams"):
            done.append(number)
            await go_on.wait()

    streams = [asyncio.create_task(work(number)) for number in range(CALLS)]
    await settle()
    assert len(done) == CALLS // 2  # half for each of the two
    go_on.set()
    beside.end()
    async with asyncio.timeout(30):
        await asyncio.gather(*streams)
    assert len(done) == CALLS
