"""What ends `darkroom serve`: its terminal, unless it is set to outlive it, and signals.

That a closed terminal ends everything is tested with the Darkroom that all tests share, at its end
(tests/conftest.py)."""

from __future__ import annotations

import signal

import pytest

from tests.cluster.conftest import MakeDarkroom

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

# As `nohup` does, and also as a shell without job control starts what is in the background.
IGNORING = ("sh", "-c", 'trap "" HUP INT; exec "$@"', "sh")


def test_where_hangups_are_ignored_a_closed_terminal_ends_nothing(
    make_darkroom: MakeDarkroom,
) -> None:
    darkroom = make_darkroom().start(under=IGNORING)
    before = {each.pid for each in darkroom.leftovers()}
    darkroom.hang_up()
    assert darkroom.in_state(darkroom.submit(steps=3, step_ms=20), "succeeded")["failures"] == 0
    assert before <= {each.pid for each in darkroom.leftovers()}
    darkroom.stop(signal.SIGINT)  # which it hears nevertheless
    assert darkroom.leftovers() == []
