"""Joins, cancels, failures, deadlines, snapshots and LoRAs at random, merged: nothing is left,
no request is harmed. ``scripts/soak`` does the same with ten thousand."""

import pytest

from tests.engine.crowd import changes, crowd_of, left_over, lies_on, own_processors
from tests.engine.tiny import tiny_flux

pytestmark = pytest.mark.engine


@pytest.mark.long
def test_nothing_is_left_over_and_no_request_is_harmed(tmp_path):
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


def test_a_hook_or_an_attention_processor_that_stays_would_be_seen():
    """Or the test above would prove nothing about them."""
    pipeline = tiny_flux()
    before = lies_on(pipeline)
    assert changes(before, lies_on(pipeline)) == set()
    hook = pipeline.transformer.proj_out.register_forward_pre_hook(print)
    ((_, place, kind),) = changes(before, lies_on(pipeline))
    assert place == "proj_out"
    assert kind.startswith("_forward_pre_hooks")
    hook.remove()
    assert changes(before, lies_on(pipeline)) == set()
    own_processors(pipeline)
    assert {key for _, _, key in changes(before, lies_on(pipeline))} == {"processor"}
