"""How many deliveries of a lane may be on their way."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from serve_app.domain.webhook import Answer, Lane
from serve_app.webhooks.lanes import (
    FIRST_OPEN_S,
    LONGEST_OPEN_S,
    MOST,
    MOST_OF_TENANT,
    OPENS_AFTER,
    PROVEN,
    UNPROVEN,
    Lanes,
)

LANE = Lane("ann", "a.example")
FINE = Answer(0.1, 200)
DOWN = Answer(0.1, None, "No connection.")


def failing(lanes: Lanes, times: int, now: float = 0.0) -> None:
    for _ in range(times):
        lanes.heard(LANE, DOWN, now)


def test_a_receiver_has_to_prove_itself() -> None:
    lanes = Lanes()
    assert lanes.choose([LANE], 0.0) == {LANE: UNPROVEN}
    lanes.heard(LANE, FINE, 0.0)
    assert lanes.choose([LANE], 0.0) == {LANE: PROVEN}
    lanes.heard(LANE, DOWN, 0.0)
    assert lanes.choose([LANE], 0.0) == {LANE: 1}


def test_a_lane_closes_after_failures_in_a_row_and_then_lets_one_through() -> None:
    lanes = Lanes()
    failing(lanes, OPENS_AFTER)
    assert lanes.choose([LANE], FIRST_OPEN_S - 0.01) == {}
    assert lanes.choose([LANE], FIRST_OPEN_S) == {LANE: 1}
    lanes.left(LANE)
    assert lanes.choose([LANE], FIRST_OPEN_S) == {}
    lanes.back(LANE)
    lanes.heard(LANE, FINE, FIRST_OPEN_S)
    assert lanes.choose([LANE], FIRST_OPEN_S) == {LANE: PROVEN}


def test_it_stays_closed_longer_each_time_but_never_for_long() -> None:
    lanes = Lanes()
    failing(lanes, OPENS_AFTER + 1)
    assert lanes.choose([LANE], 1.9 * FIRST_OPEN_S) == {}
    failing(lanes, 1000)
    assert lanes.choose([LANE], LONGEST_OPEN_S) == {LANE: 1}


def test_a_receiver_that_refuses_some_is_not_down() -> None:
    lanes = Lanes()
    for status in (400, 404, 422, 410, 302) * 3:
        lanes.heard(LANE, Answer(0.1, status, "No."), 0.0)
    assert lanes.choose([LANE], 0.0) == {LANE: PROVEN}
    for status in (500, 502, 503, 429, 504):
        lanes.heard(LANE, Answer(0.1, status, "No."), 0.0)
    assert lanes.choose([LANE], 0.0) == {}


def test_the_same_host_of_another_tenant_is_another_lane() -> None:
    lanes = Lanes()
    failing(lanes, OPENS_AFTER)
    other = Lane("bob", LANE.host)
    assert lanes.choose([LANE, other], 0.0) == {other: UNPROVEN}


def test_a_tenant_with_many_hosts_leaves_room_for_others() -> None:
    lanes = Lanes()
    many = [Lane("ann", f"{n}.example") for n in range(500)]
    bob = Lane("bob", "b.example")
    chosen = lanes.choose([*many, bob], 0.0)
    assert sum(chosen.values()) == MOST_OF_TENANT + UNPROVEN
    assert chosen[bob] == UNPROVEN


lanes_ = st.builds(Lane, st.sampled_from("abc"), st.sampled_from([str(n) for n in range(30)]))


@given(st.lists(st.tuples(st.sampled_from(["go", "fine", "down"]), lanes_), max_size=200))
def test_whatever_happens_the_caps_hold(acts: list[tuple[str, Lane]]) -> None:
    lanes, away = Lanes(), list[Lane]()
    for now, (act, lane) in enumerate(acts):
        if act == "go":
            for chosen, count in lanes.choose([lane, *away], float(now)).items():
                away += [chosen] * count
                for _ in range(count):
                    lanes.left(chosen)
        elif away:
            back = away.pop()
            lanes.back(back)
            lanes.heard(back, FINE if act == "fine" else DOWN, float(now))
        assert lanes.under_way == len(away) <= MOST
        for tenant in "abc":
            assert sum(each.tenant == tenant for each in away) <= MOST_OF_TENANT
        assert all(away.count(each) <= PROVEN for each in away)
