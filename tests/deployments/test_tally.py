"""What the engine did is told once."""

from deployments.tally import Tally
from serve_app.domain.lease import Computed


def counted(steps, batch_sizes, encoders):
    return {
        "steps": steps,
        "batch_sizes": batch_sizes,
        "not_merged": {"nobody else": 2},
        "encoders": {"batch_sizes": encoders, "not_merged": {}},
    }


def test_each_time_it_is_what_came_since_the_last():
    counts = counted(4, {1: 2, 3: 1}, {2: 1})
    tally = Tally(lambda: counts)
    forwards = {("denoiser", 1): 2, ("denoiser", 3): 1, ("encoder", 2): 1}
    assert tally.take() == Computed(4, forwards, {("denoiser", "nobody else"): 2})
    assert tally.take() == Computed()
    counts = counted(9, {1: 2, 3: 2, 2: 1}, {2: 3})
    forwards = {("denoiser", 3): 1, ("denoiser", 2): 1, ("encoder", 2): 2}
    assert tally.take() == Computed(5, forwards, {})
