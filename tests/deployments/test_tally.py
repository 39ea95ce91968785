"""What the engine did is told once."""

from deployments.tally import Tally
from serve_app.domain.lease import Computed


def test_each_time_it_is_what_came_since_the_last():
    counts = {"steps": 4, "batch_sizes": {1: 2, 3: 1}, "not_merged": {"nobody else": 2}}
    tally = Tally(lambda: counts)
    assert tally.take() == Computed(4, {1: 2, 3: 1}, {"nobody else": 2})
    assert tally.take() == Computed()
    counts = {"steps": 9, "batch_sizes": {1: 2, 3: 2, 2: 1}, "not_merged": {"nobody else": 2}}
    assert tally.take() == Computed(5, {3: 1, 2: 1}, {})
