"""What follows a commit: this process's memory is set right, and whoever waits, here or elsewhere,
is woken.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from serve_app.domain.lease import Held, Signal, SignalKind
from serve_app.domain.outcome import Outcome
from serve_app.domain.request import State
from serve_app.queue import wording
from serve_app.queue.asks import Asks
from serve_app.queue.census import Census
from serve_app.queue.charges import Charges
from serve_app.queue.costs import Costs
from serve_app.queue.endings import Ended, How
from serve_app.queue.followers import Follower
from serve_app.queue.leaving import Left
from serve_app.queue.limits import QueueLimits
from serve_app.queue.observer import Observer
from serve_app.queue.waiting_room import WaitingRoom
from serve_app.queue.wakeups import News, Wakeups
from serve_app.queue.watch import Watch


@dataclass(frozen=True, slots=True)
class Aftermath:
    room: WaitingRoom
    asks: Asks
    watch: Watch
    census: Census
    wakeups: Wakeups
    observer: Observer
    limits: QueueLimits
    charges: Charges
    costs: Costs
    settle: Callable[[Iterable[str]], object]  # soon, groups whose leaders may have ended

    def ended(
        self,
        ended: Sequence[Ended],
        outcomes: Mapping[Held, Outcome] | None = None,
        *,
        fenced: bool = False,
    ) -> None:
        """Attempts ended. ``outcomes`` are those that replicas handed in; ``fenced``: the replicas
        do not know yet."""
        again: set[str] = set()
        for each in ended:
            self.observer.ended(each.endpoint, each.state, each.run_s)
            self._account(each)
            outcome = (outcomes or {}).get(each.held)
            if self.limits.limits(each.tenant, each.endpoint):
                again.add(each.pool)  # there is room for another
            if each.state is State.QUEUED:
                again.add(each.pool)
                self.census.entered_again(each.pool, each.tenant, each.endpoint)
                self.watch.doubt([each.held.request_id])
            elif outcome is not None and each.state is _state(outcome):
                self.watch.learn_change(
                    each.held.request_id,
                    each.version,
                    state=each.state,
                    outcome=outcome,
                    failures=each.failures,
                    finished_at=each.finished_at,
                    progress=None,
                    preview_step=0,
                )
            else:
                self.watch.doubt([each.held.request_id])
        signals = [Signal(SignalKind.FENCED, each.held) for each in ended] if fenced else []
        self._spread([each.held.request_id for each in ended], again, signals)
        self._leaderless(each.leads for each in ended if each.state is not State.QUEUED)

    def _account(self, each: Ended) -> None:
        """Its lane pays what it took. An attempt that never reached its replica took nothing."""
        took_s = each.run_s or (0.0 if each.how is How.UNDO else each.held_s)
        self.charges.add(each.pool, each.tenant, took_s - each.expected_s)
        if each.how is How.SUCCEEDED and not each.resumed:
            self.costs.ended(each.endpoint, each.pool, each.work, took_s)

    def left(self, left: Sequence[Left], outcome: Outcome) -> None:
        """Requests were cancelled or expired; those that run were asked to stop."""
        signals: list[Signal] = []
        for each in left:
            id_ = each.held.request_id
            if each.state is State.RUNNING:
                signals.append(Signal(SignalKind.CANCEL, each.held))
                if each.news:
                    self.watch.learn_change(id_, each.version, cancel_requested=True)
                continue
            if each.followed:
                self.census.follows_no_more(each.pool, each.tenant, each.endpoint)
            else:
                self.census.left(each.pool, each.tenant, each.endpoint)
            self.observer.ended(each.endpoint, each.state, 0.0)
            self.watch.learn_change(
                id_,
                each.version,
                state=each.state,
                outcome=outcome,
                finished_at=each.finished_at,
                cancel_requested=each.state is State.CANCELLED,
                follows=None,
            )
        self._spread([each.held.request_id for each in left if each.news], (), signals)
        self._leaderless(each.leads for each in left if each.state is not State.RUNNING)

    def settled(self, settled: Sequence[Follower]) -> None:
        """Requests follow no more: they have the outcome, or are queued by themselves."""
        for each in settled:
            self.census.follows_no_more(each.pool, each.tenant, each.endpoint)
            if each.succeeded:
                self.observer.ended(each.endpoint, State.SUCCEEDED, 0.0)
            else:
                self.census.entered_again(each.pool, each.tenant, each.endpoint)
        self.watch.doubt(each.id for each in settled)
        pools = {each.pool for each in settled if not each.succeeded}
        self._spread([each.id for each in settled], pools, [])

    def _leaderless(self, groups: Iterable[str | None]) -> None:
        if known := {group for group in groups if group is not None}:
            self.settle(known)

    def deleted(self, request_ids: Sequence[str]) -> None:
        """Or emptied: nobody is to have them from memory."""
        self.watch.doubt(request_ids)
        self._spread(request_ids, (), ())

    def free(self, pools: Iterable[str]) -> None:
        """What was held back there may be leased."""
        self._spread((), pools, [])

    def heard(self, news: News) -> None:
        """Another process told."""
        self.watch.doubt(news.changed)
        self.room.signal(news.signals)
        self.asks.stir(news.pools)

    def missed(self) -> None:
        """Others may have told something that was not heard."""
        self.watch.doubt_all()
        self.asks.stir_all()

    def _spread(
        self, changed: Iterable[str], pools: Iterable[str], signals: Sequence[Signal]
    ) -> None:
        self.room.signal(signals)
        self.asks.stir(pools)
        self.wakeups.tell(changed, pools, signals)


def _state(outcome: Outcome) -> State:
    if outcome.failure is None:
        return State.SUCCEEDED
    if wording.is_cancel(outcome.failure):
        return State.CANCELLED
    return State.EXPIRED if wording.is_expiry(outcome.failure) else State.FAILED
