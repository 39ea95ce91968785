from __future__ import annotations

import pytest

from serve_app.domain.request import TRANSITIONS, State


def test_every_state_has_its_transitions() -> None:
    assert set(TRANSITIONS) == set(State)


@pytest.mark.parametrize("state", [State.SUCCEEDED, State.FAILED, State.CANCELLED, State.EXPIRED])
def test_a_final_state_is_never_left(state: State) -> None:
    assert state.final
    assert TRANSITIONS[state] == frozenset()


@pytest.mark.parametrize("state", [State.QUEUED, State.RUNNING])
def test_every_other_state_reaches_every_end_but_success_without_running(state: State) -> None:
    assert not state.final
    assert {State.FAILED, State.CANCELLED, State.EXPIRED} <= TRANSITIONS[state]


def test_only_what_runs_or_waits_for_the_outcome_of_another_can_succeed() -> None:
    able = [state for state in State if State.SUCCEEDED in TRANSITIONS[state]]
    assert able == [State.QUEUED, State.RUNNING]
