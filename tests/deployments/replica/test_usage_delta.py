"""Engine counters are reported exactly once."""

from deployments.replica.reporter import UsageDelta
from deployments.transfer.uploader import StorageCalls
from serve_app.domain.lease import EngineUsage


def make_counts(steps, batch_sizes, encoders, seconds=None):
    return {
        "steps": steps,
        "seconds": seconds or {},
        "batch_sizes": batch_sizes,
        "not_merged": {"nobody else": 2},
        "encoders": {"batch_sizes": encoders, "not_merged": {}},
    }


def test_each_time_it_is_what_came_since_the_last():
    counts = make_counts(4, {1: 2, 3: 1}, {2: 1})
    tally = UsageDelta(lambda: counts)
    forwards = {("denoiser", 1): 2, ("denoiser", 3): 1, ("encoder", 2): 1}
    assert tally.take() == EngineUsage(4, forwards, {("denoiser", "nobody else"): 2})
    assert tally.take() == EngineUsage()
    counts = make_counts(9, {1: 2, 3: 2, 2: 1}, {2: 3})
    forwards = {("denoiser", 3): 1, ("denoiser", 2): 1, ("encoder", 2): 2}
    assert tally.take() == EngineUsage(5, forwards, {})


def test_calls_of_several_devices_are_reported_by_how_they_were_divided():
    counts = make_counts(0, {}, {}) | {"parallel_calls": {"rows": 4, "one row": 1}}
    tally = UsageDelta(lambda: counts)
    assert tally.take().parallel_calls == {"rows": 4, "one row": 1}
    counts = make_counts(0, {}, {}) | {"parallel_calls": {"rows": 7, "one row": 1}}
    assert tally.take().parallel_calls == {"rows": 3}


def test_seconds_are_those_of_all_weights_of_a_family():
    seconds = {
        ("flux:one", "denoising"): 2.0,
        ("flux:two:bfloat16", "denoising"): 1.0,
        ("sdxl:one", "decoding"): 0.5,
    }
    counts = make_counts(0, {}, {}, seconds)
    tally = UsageDelta(lambda: counts)
    assert tally.take().seconds == {("flux", "denoising"): 3.0, ("sdxl", "decoding"): 0.5}
    assert tally.take().seconds == {}
    counts = make_counts(0, {}, {}, {**seconds, ("flux:one", "denoising"): 2.25})
    assert tally.take().seconds == {("flux", "denoising"): 0.25}


def test_calls_of_storage_are_reported_by_their_results():
    engine, calls = make_counts(0, {}, {}), StorageCalls()
    tally = UsageDelta(lambda: {**engine, **calls.counts()})
    tally.take()
    assert tally.take() == EngineUsage()
    calls.add("write", "error", 0.5)
    calls.add("write", "error", 0.25)
    calls.add("write", "done", 1.0)
    reported = tally.take()
    assert reported.storage_calls == {("write", "error"): 2, ("write", "done"): 1}
    assert reported.storage_seconds == {("write", "error"): 0.75, ("write", "done"): 1.0}
    assert tally.take() == EngineUsage()
