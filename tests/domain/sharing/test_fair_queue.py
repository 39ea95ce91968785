"""The order in which jobs of many tenants get threads, in any sequence of events."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from serve_app.domain.sharing.fair_queue import FairQueue, work_of, working_for

TENANTS = "abcde"
MESSAGE_TWICE = "it started two jobs while a tenant that held no thread waited"
Job = tuple[str, int]

SUBMIT = st.tuples(st.just("submit"), st.sampled_from(TENANTS))
EVENTS = st.lists(
    st.one_of(
        SUBMIT,
        SUBMIT,  # twice, or few would ever wait
        st.tuples(st.just("end"), st.integers(0, 100)),
        st.tuples(st.just("cancel"), st.integers(0, 100)),
    ),
    min_size=10,
    max_size=120,
)


@dataclass(slots=True)
class Pool:
    """Threads of a ``FairQueue``, and a check of each start."""

    threads: int
    running: list[Job] = field(default_factory=list[Job])
    waiting: list[Job] = field(default_factory=list[Job])
    cancelled: int = 0
    submitted: int = 0
    ended: int = 0

    queue: FairQueue[Job] = field(init=False)
    overtaken: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    """Tenants whose jobs have started while one that holds nothing waits."""

    def __post_init__(self) -> None:
        self.queue = FairQueue(self.threads)

    def thread_count(self, tenant: str) -> int:
        return sum(entry[0] == tenant for entry in self.running)

    def submit(self, tenant: str) -> None:
        job = (tenant, self.submitted)
        self.submitted += 1
        newcomer = self.thread_count(tenant) == 0 and all(
            entry[0] != tenant for entry in self.waiting
        )
        free = self.threads - len(self.running)
        if self.queue.start(tenant):
            self.note_start(job)
        else:
            assert not (newcomer and free), "a tenant without work waited beside a free thread"
            self.queue.wait(tenant, job)
            self.waiting.append(job)

    def end(self, number: int) -> None:
        if self.running:
            job = self.running.pop(number % len(self.running))
            self.ended += 1
            self.queue.end(job[0])
            self.start_waiting()

    def cancel(self, number: int) -> None:
        if self.waiting:
            job = self.waiting.pop(number % len(self.waiting))
            self.cancelled += 1
            assert self.queue.leave(*self.place_of(job))
            assert not self.queue.leave(*self.place_of(job))
            if all(entry[0] != job[0] for entry in self.waiting):
                self.overtaken.pop(job[0], None)  # its next job comes last

    def start_waiting(self) -> None:
        while (job := self.queue.next()) is not None:
            of_tenant = [entry for entry in self.waiting if entry[0] == job[0]]
            assert job == of_tenant[0], "jobs of a tenant start in the order of their arrival"
            self.waiting.remove(job)
            self.note_start(job)

    def note_start(self, job: Job) -> None:
        free = self.threads - len(self.running)
        assert self.thread_count(job[0]) < free, "a tenant holds no more threads than are free"
        self.running.append(job)
        self.overtaken.pop(job[0], None)
        for tenant in {entry[0] for entry in self.waiting}:
            if not self.thread_count(tenant):
                assert job[0] not in self.overtaken[tenant], MESSAGE_TWICE
                self.overtaken[tenant].append(job[0])

    @staticmethod
    def place_of(job: Job) -> tuple[str, Job]:
        return job[0], job


@given(threads=st.integers(1, 9), events=EVENTS)
def test_turns_are_fair_and_no_job_is_left_behind(
    threads: int, events: list[tuple[str, str | int]]
) -> None:
    pool = Pool(threads)
    for name, value in events:
        getattr(pool, name)(value)
        assert pool.queue.running == len(pool.running) <= threads
        assert pool.queue.waiting == len(pool.waiting)
    while pool.running:
        pool.end(0)
    assert not pool.waiting
    assert pool.ended + pool.cancelled == pool.submitted


def test_one_tenant_leaves_half_of_the_threads_to_others() -> None:
    queue: FairQueue[int] = FairQueue(32)
    assert sum(queue.start("mallory") for _ in range(40)) == 16
    assert queue.start("bob")


def test_a_block_counts_as_work_of_a_tenant() -> None:
    assert working_for() == ""
    with work_of("ann"):
        with work_of("bob"):
            assert working_for() == "bob"
        assert working_for() == "ann"
    assert working_for() == ""
