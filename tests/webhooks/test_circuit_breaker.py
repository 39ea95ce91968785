"""Limits on concurrent deliveries of a channel."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from serve_app.domain.webhook import DeliveryChannel, ReceiverResponse
from serve_app.webhooks.circuit_breaker import (
    FIRST_OPEN_S,
    LONGEST_OPEN_S,
    MAX_IN_FLIGHT,
    MAX_PER_TENANT,
    OPENS_AFTER,
    PROVEN,
    UNPROVEN,
    CircuitBreakers,
)

CHANNEL = DeliveryChannel("ann", "a.example")
FINE = ReceiverResponse(0.1, 200)
DOWN = ReceiverResponse(0.1, None, "No connection.")


def failing(breakers: CircuitBreakers, times: int, now: float = 0.0) -> None:
    for _ in range(times):
        breakers.record_result(CHANNEL, DOWN, now)


def test_a_receiver_has_to_prove_itself() -> None:
    breakers = CircuitBreakers()
    assert breakers.choose([CHANNEL], 0.0) == {CHANNEL: UNPROVEN}
    breakers.record_result(CHANNEL, FINE, 0.0)
    assert breakers.choose([CHANNEL], 0.0) == {CHANNEL: PROVEN}
    breakers.record_result(CHANNEL, DOWN, 0.0)
    assert breakers.choose([CHANNEL], 0.0) == {CHANNEL: 1}


def test_a_channel_closes_after_failures_in_a_row_and_then_lets_one_through() -> None:
    breakers = CircuitBreakers()
    failing(breakers, OPENS_AFTER)
    assert breakers.choose([CHANNEL], FIRST_OPEN_S - 0.01) == {}
    assert breakers.choose([CHANNEL], FIRST_OPEN_S) == {CHANNEL: 1}
    breakers.started(CHANNEL)
    assert breakers.choose([CHANNEL], FIRST_OPEN_S) == {}
    breakers.finished(CHANNEL)
    breakers.record_result(CHANNEL, FINE, FIRST_OPEN_S)
    assert breakers.choose([CHANNEL], FIRST_OPEN_S) == {CHANNEL: PROVEN}


def test_it_stays_closed_longer_each_time_but_never_for_long() -> None:
    breakers = CircuitBreakers()
    failing(breakers, OPENS_AFTER + 1)
    assert breakers.choose([CHANNEL], 1.9 * FIRST_OPEN_S) == {}
    failing(breakers, 1000)
    assert breakers.choose([CHANNEL], LONGEST_OPEN_S) == {CHANNEL: 1}


def test_a_receiver_that_refuses_some_is_not_down() -> None:
    breakers = CircuitBreakers()
    for status in (400, 404, 422, 410, 302) * 3:
        breakers.record_result(CHANNEL, ReceiverResponse(0.1, status, "No."), 0.0)
    assert breakers.choose([CHANNEL], 0.0) == {CHANNEL: PROVEN}
    for status in (500, 502, 503, 429, 504):
        breakers.record_result(CHANNEL, ReceiverResponse(0.1, status, "No."), 0.0)
    assert breakers.choose([CHANNEL], 0.0) == {}


def test_the_same_host_of_another_tenant_is_another_channel() -> None:
    breakers = CircuitBreakers()
    failing(breakers, OPENS_AFTER)
    other = DeliveryChannel("bob", CHANNEL.host)
    assert breakers.choose([CHANNEL, other], 0.0) == {other: UNPROVEN}


def test_a_tenant_with_many_hosts_leaves_room_for_others() -> None:
    breakers = CircuitBreakers()
    many = [DeliveryChannel("ann", f"{n}.example") for n in range(500)]
    bob = DeliveryChannel("bob", "b.example")
    chosen = breakers.choose([*many, bob], 0.0)
    assert sum(chosen.values()) == MAX_PER_TENANT + UNPROVEN
    assert chosen[bob] == UNPROVEN


channels_ = st.builds(
    DeliveryChannel, st.sampled_from("abc"), st.sampled_from([str(n) for n in range(30)])
)


@given(st.lists(st.tuples(st.sampled_from(["go", "fine", "down"]), channels_), max_size=200))
def test_whatever_happens_the_caps_hold(acts: list[tuple[str, DeliveryChannel]]) -> None:
    breakers, away = CircuitBreakers(), list[DeliveryChannel]()
    for now, (act, channel) in enumerate(acts):
        if act == "go":
            for chosen, count in breakers.choose([channel, *away], float(now)).items():
                away += [chosen] * count
                for _ in range(count):
                    breakers.started(chosen)
        elif away:
            back = away.pop()
            breakers.finished(back)
            breakers.record_result(back, FINE if act == "fine" else DOWN, float(now))
        assert breakers.in_flight == len(away) <= MAX_IN_FLIGHT
        for tenant in "abc":
            assert sum(each.tenant == tenant for each in away) <= MAX_PER_TENANT
        assert all(away.count(each) <= PROVEN for each in away)
