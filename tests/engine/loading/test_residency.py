"""Loading on demand, and eviction."""

import threading
import time
import weakref
from pathlib import Path

import pytest
import torch

from deployments.engine.accelerator.cpu import Cpu
from deployments.engine.engine import Engine
from deployments.engine.loading.loader import load_pipeline
from deployments.engine.loading.loads import (
    AT_ONCE,
    Fetch,
    LoadPlan,
)
from deployments.engine.loading.residency import Residency
from serve_app.domain.endpoint import Weights
from serve_app.domain.errors import Misconfigured, OutOfMemory, WeightsUnavailable
from serve_app.domain.progress import Progress, Stage

pytestmark = pytest.mark.engine


@pytest.fixture
def engine():
    with Engine() as engine:
        yield engine


@pytest.fixture
def residency(engine):
    residency = Residency(engine)
    yield residency
    residency.close()


class Pipeline:
    """Weights of so many bytes that take none."""

    def __init__(self, size=4):
        self.unet = torch.nn.Linear(size // 4, 1, bias=False, device="meta")
        self.vae = self.unet  # shared parts count once

    def __call__(self):
        return "made"


def plan(size):
    return LoadPlan(lambda *_: Pipeline(size))


def until_one_waits_for_memory(residency):
    """Until then, who comes for loaded weights gets them, however late the loader's thread is."""
    end = time.monotonic() + 120
    while not residency._waits_for_memory:
        assert time.monotonic() < end
        time.sleep(0.01)


def test_many_who_ask_for_one_pipeline_load_it_once(engine, residency):
    go, loads = threading.Event(), []

    def load(*_):
        go.wait(30)
        loads.append(1)
        return Pipeline()

    waiting = [residency.acquire("it", LoadPlan(load)).future for _ in range(5)]
    assert residency.find("it") is None
    go.set()
    pipelines = {future.result(30) for future in waiting}
    assert len(pipelines) == len(loads) == 1
    assert residency.acquire("it", LoadPlan(load)).future.result(30) in pipelines
    assert residency.find("it") in pipelines
    assert engine.submit(pipeline="it").result(30) == "made"


def test_a_failed_load_is_reported_to_those_who_wait_and_tried_again_for_the_next(residency):
    attempts = []

    def load(*_):
        attempts.append(1)
        if len(attempts) == 1:
            raise WeightsUnavailable("Not yet.")
        return Pipeline()

    with pytest.raises(WeightsUnavailable, match="Not yet"):
        residency.acquire("it", LoadPlan(load)).future.result(30)
    assert residency.acquire("it", LoadPlan(load)).future.result(30) is residency.find("it")


def test_one_failed_load_leaves_the_others_alone(residency):
    def fail(*_):
        raise WeightsUnavailable("Never.")

    failing, loading = (
        residency.acquire(name, load).future
        for name, load in (("bad", LoadPlan(fail)), ("good", plan(4)))
    )
    assert isinstance(loading.result(30), Pipeline)
    with pytest.raises(WeightsUnavailable):
        failing.result(30)
    assert residency.find("bad") is None


def test_idle_weights_go_when_memory_runs_out_and_those_in_use_stay(engine, residency):
    class TooLarge(torch.nn.Module):
        def forward(self, _):
            raise torch.OutOfMemoryError("No room.")

    class Large:
        def __init__(self):
            self.transformer = TooLarge()

        def __call__(self):
            self.transformer(torch.zeros(1))

    used = residency.acquire("used", plan(4))
    idle = residency.acquire("idle", plan(4))
    for loan in (used, idle):
        loan.future.result(30)
    residency.release(idle)
    engine.add("large", Large())
    with pytest.raises(OutOfMemory, match="call of TooLarge"):
        engine.submit(pipeline="large").result(30)
    assert residency.find("idle") is None
    assert residency.find("used") is used.future.result(30)
    again = residency.acquire("idle", plan(4)).future.result(30)
    assert engine.submit(pipeline="idle").result(30) == "made"
    assert again is residency.find("idle")


# Downloads


def far_away(bring, here=False):
    return LoadPlan(lambda *_: Pipeline(), fetch=Fetch(lambda: here, bring))


def test_a_download_holds_up_no_load(residency):
    go = threading.Event()
    far = residency.acquire("far", far_away(lambda _: go.wait(30))).future
    assert residency.acquire("near", plan(4)).future.result(30) is residency.find("near")
    assert residency.find("far") is None
    go.set()
    assert far.result(30) is residency.find("far")


def test_only_some_download_at_once_and_the_rest_get_no_byte_counts(residency):
    go, lock, begun, reported = threading.Event(), threading.Lock(), [], []

    def bring(_):
        with lock:
            begun.append(1)
        go.wait(30)

    loans = [
        residency.acquire(str(n), far_away(bring), reported.append) for n in range(AT_ONCE + 2)
    ]
    here = residency.acquire("here", far_away(bring, here=True)).future
    assert here.result(30) is residency.find("here")
    while reported.count(Progress(Stage.DOWNLOADING)) < 2 or len(begun) < AT_ONCE:
        go.wait(0.01)
    assert len(begun) == AT_ONCE
    go.set()
    for loan in loans:
        loan.future.result(30)
    assert len(begun) == AT_ONCE + 2


def test_a_failed_download_is_reported_to_those_who_wait(residency):
    def bring(_):
        raise WeightsUnavailable("The hub is away.")

    waiting = [residency.acquire("far", far_away(bring)).future for _ in range(2)]
    for future in waiting:
        with pytest.raises(WeightsUnavailable, match="hub is away"):
            future.result(30)
    assert residency.acquire("far", plan(4)).future.result(30) is residency.find("far")


def test_what_is_at_work_is_silent_and_what_waits_is_not(engine):
    now = [0.0]
    residency = Residency(engine, monotonic=lambda: now[0])
    begun, go = threading.Event(), threading.Event()

    def load(*_):
        begun.set()
        go.wait(30)
        return Pipeline()

    loan = residency.acquire("it", LoadPlan(load))
    other = residency.acquire("other", plan(4))
    begun.wait(30)
    now[0] = 100.0
    assert residency.longest_silence() == ("it", 100.0)
    go.set()
    loan.future.result(30)
    other.future.result(30)
    assert residency.longest_silence() == ("", 0.0)
    residency.close()


# Stages


def test_all_who_wait_are_notified_of_the_stages_even_those_who_come_in_the_middle(residency):
    halfway, go, reported = threading.Event(), threading.Event(), {"first": [], "late": []}

    def load(on_download, _):
        on_download(5 * 10**9, 10**10)
        halfway.set()
        go.wait(30)
        on_download(10**10, 10**10)
        return Pipeline()

    first = residency.acquire("it", LoadPlan(load), reported["first"].append)
    halfway.wait(30)
    downloading = Progress(Stage.DOWNLOADING, 5 * 10**9, 10**10)
    assert residency.loading() == {"it": downloading}
    late = residency.acquire("it", LoadPlan(load), reported["late"].append)
    go.set()
    assert late.future.result(30) is first.future.result(30)
    assert reported["late"] == [downloading, Progress(Stage.LOADING)]
    assert reported["first"] == [Progress(Stage.LOADING), *reported["late"]]
    assert residency.loading() == {}


def test_the_late_word_of_a_download_is_passed_over(residency):
    words = []

    def load(on_download, _):
        words.append(on_download)
        return Pipeline()

    residency.acquire("it", LoadPlan(load)).future.result(30)
    words[0](1, 2)
    assert residency.loading() == {}


def test_a_model_that_is_not_warm_yet_is_given_to_no_one(residency):
    calls, reported = [], []

    class Warm(Pipeline):
        def __call__(self, steps):
            calls.append(steps)

    warm = LoadPlan(lambda *_: Warm(), warm_up=lambda _: {"steps": 1})
    residency.acquire("it", warm, reported.append).future.result(30)
    assert calls == [1]
    assert [progress.stage for progress in reported] == [Stage.LOADING, Stage.WARMING_UP]


def test_a_failed_warm_up_is_reported_by_the_next_generation(residency, caplog):
    cold = LoadPlan(lambda *_: Pipeline(), warm_up=lambda _: {"unknown": 1})
    assert residency.acquire("it", cold).future.result(30) is residency.find("it")
    assert "The warm-up call of it failed" in caplog.text


def test_a_warm_up_that_waits_for_its_place_delays_no_other_load(residency):
    begun, go = threading.Event(), threading.Event()

    class Warm(Pipeline):
        def __call__(self):
            begun.set()
            go.wait(30)

    warm = residency.acquire("warm", LoadPlan(lambda *_: Warm(), warm_up=lambda _: {}))
    begun.wait(30)
    other = residency.acquire("other", plan(4))
    assert other.future.result(30) is residency.find("other")
    assert not warm.future.done()
    assert residency.find("warm") is None
    residency.evict_idle()  # it counts as in use
    go.set()
    assert warm.future.result(30) is residency.find("warm")


def test_a_load_reports_its_bytes_and_is_not_silent_while_it_reads(engine):
    now, silent, reported = [0.0], [], []
    residency = Residency(engine, monotonic=lambda: now[0])
    on_bytes = residency._on_bytes

    def slowly(*progress):
        now[0] += 100.0  # a slow disk
        on_bytes(*progress)
        silent.append(residency.longest_silence())

    residency._on_bytes = slowly
    flux = LoadPlan(lambda *_: load_pipeline(Weights("deployments/demo/flux")))
    residency.acquire("it", flux, reported.append).future.result(60)
    assert silent
    assert {*silent} == {("it", 0.0)}
    size = sum(file.stat().st_size for file in Path("deployments/demo/flux").rglob("*.safetensors"))
    last = reported[-1]
    assert (last.stage, last.step) == (Stage.LOADING, last.steps)
    assert 0.98 * size < last.steps <= size
    residency.close()


# Eviction


@pytest.fixture
def small(engine):
    residency = Residency(engine, budget_bytes=1000)
    yield residency
    residency.close()


def loaded_names(residency, *names):
    return [name for name in names if residency.find(name) is not None]


def use(residency, name, size):
    """Borrow it, run it, give it back."""
    loan = residency.acquire(name, plan(size))
    loan.future.result(30)
    residency.release(loan)


def test_idle_weights_make_room_the_longest_unused_first(engine, small):
    for name in ("a", "b", "c"):
        use(small, name, 300)
    use(small, "a", 300)
    use(small, "d", 400)
    assert loaded_names(small, "a", "b", "c", "d") == ["a", "c", "d"]
    use(small, "e", 1000)
    assert loaded_names(small, "a", "c", "d", "e") == ["e"]
    with pytest.raises(Misconfigured):
        engine.submit(pipeline="a")


def test_what_was_evicted_is_let_go_of_and_loaded_again_when_asked_for(small):
    use(small, "a", 600)
    gone = weakref.ref(small.find("a"))
    use(small, "b", 600)
    assert gone() is None
    use(small, "a", 600)
    assert loaded_names(small, "a", "b") == ["a"]


def test_weights_in_use_are_never_evicted_and_the_load_waits(small):
    use(small, "idle", 300)
    claim = small.acquire("held", plan(600))
    claim.future.result(30)
    coming = small.acquire("coming", plan(700))
    with pytest.raises(TimeoutError):
        coming.future.result(0.2)
    assert small.find("held") is claim.future.result()
    small.release(claim)
    assert isinstance(coming.future.result(30), Pipeline)
    assert loaded_names(small, "idle", "held", "coming") == ["coming"]


def test_who_comes_later_waits_behind_a_load_that_waits_for_room(small):
    first = small.acquire("a", plan(600))
    first.future.result(30)
    other = small.acquire("b", plan(600))
    until_one_waits_for_memory(small)
    late = small.acquire("a", plan(600))
    small.release(first)
    other.future.result(30)
    assert not late.future.done()
    small.release(other)
    late.future.result(30)


def test_alternating_loans_from_many_threads_all_end(small):
    done = []

    def work(name):
        for _ in range(20):
            use(small, name, 600)
            done.append(name)

    threads = [threading.Thread(target=work, args=(name,)) for name in "aabbc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(done) == 100


def test_a_load_that_is_no_longer_waited_for_ends(small):
    claim = small.acquire("held", plan(600))
    claim.future.result(30)
    given_up = small.acquire("coming", plan(600))
    with pytest.raises(TimeoutError):
        given_up.future.result(0.2)
    small.release(given_up)
    again = small.acquire("held", plan(600))
    again.future.result(30)
    assert loaded_names(small, "held", "coming") == ["held"]


def test_giving_back_twice_is_giving_back_once(small):
    first, two = (small.acquire("a", plan(600)) for _ in range(2))
    two.future.result(30)
    small.release(first)
    small.release(first)
    coming = small.acquire("b", plan(600))
    with pytest.raises(TimeoutError):
        coming.future.result(0.2)
    small.release(two)
    coming.future.result(30)


def test_idle_weights_go_before_others_are_read_where_those_are_computed_from_host_memory(small):
    """Or both would lie in it for a while."""
    use(small, "a", 600)
    there = []

    def load(_, on_found):
        there.append(loaded_names(small, "a"))
        on_found(600)
        there.append(loaded_names(small, "a"))
        return Pipeline(600)

    small.acquire("b", LoadPlan(load)).future.result(30)
    assert there == [["a"], []]


def test_what_files_say_refuses_nothing(small):
    """Not all of them may be loaded, or in less than they have."""

    def load(_, on_found):
        on_found(5000)
        return Pipeline(600)

    assert small.acquire("b", LoadPlan(load)).future.result(30) is small.find("b")


def test_weights_that_never_fit_are_refused_in_words(small):
    use(small, "a", 300)
    with pytest.raises(WeightsUnavailable, match="weights_bytes"):
        small.acquire("huge", plan(1200)).future.result(30)
    assert loaded_names(small, "a", "huge") == ["a"]


def test_a_replica_has_a_budget_of_its_own():
    assert Cpu().weights_budget() > 10**8
