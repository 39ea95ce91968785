"""Joins, cancels, failures, deadlines, snapshots and adapters at random, merged: nothing is left,
nobody is harmed. ``scripts/soak`` does the same with ten thousand."""

import pytest

from tests.engine.crowd import crowd_of, left_over

pytestmark = pytest.mark.engine


def test_nothing_is_left_over_and_nobody_is_harmed(tmp_path):
    with crowd_of(tmp_path) as crowd:
        crowd.run(20)
        tensors, greenlets = left_over()
        crowd.run(80)
        after = left_over()
    assert after[0] <= tensors + 20
    assert after[1] <= greenlets + 2
    ended = crowd.ended
    assert ended["made"] + ended["cancelled"] + ended["failed"] == 100
    assert min(ended[how] for how in ("made", "cancelled", "failed", "resumed")) > 3
