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
    MAX_UNPROVEN_PER_TENANT,
    OPENS_AFTER,
    PROVEN,
    RECENT_S,
    TENANT_OPENS_AFTER,
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
    breakers.count_start(CHANNEL)
    assert breakers.choose([CHANNEL], FIRST_OPEN_S) == {}
    breakers.count_end(CHANNEL)
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
    breakers.record_result(CHANNEL, FINE, 0.0)
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
    assert sum(chosen.values()) == MAX_UNPROVEN_PER_TENANT + UNPROVEN
    assert chosen[bob] == UNPROVEN


def busy(breakers: CircuitBreakers, channel: DeliveryChannel, count: int, now: float = 0) -> None:
    breakers.record_result(channel, FINE, now)
    for _ in range(count):
        breakers.count_start(channel)


def hosts(tenant: str, count: int) -> list[DeliveryChannel]:
    return [DeliveryChannel(tenant, f"{n}.example") for n in range(count)]


def test_tenants_take_turns_before_their_channels_do() -> None:
    breakers = CircuitBreakers()
    due = [*hosts("ann", 100), *hosts("bob", 2), *hosts("cleo", 1)]
    for channel in due:
        breakers.record_result(channel, FINE, 0.0)
    chosen = breakers.choose(due, 1.0)
    of = {
        name: sum(n for receiver, n in chosen.items() if receiver.tenant == name)
        for name in ["ann", "bob", "cleo"]
    }
    assert of == {"ann": 20, "bob": 16, "cleo": PROVEN}  # ann stops at what is still free


def test_the_tenant_with_the_fewest_deliveries_under_way_is_first() -> None:
    breakers = CircuitBreakers()
    for channel in hosts("ann", 4):
        busy(breakers, channel, 7)
    for channel in hosts("bob", 4):
        busy(breakers, channel, 7)
    more = [*hosts("ann", 4), *hosts("bob", 4), *hosts("cleo", 1)]
    assert breakers.choose(more, 0.0) == {DeliveryChannel("cleo", "0.example"): UNPROVEN}


def test_a_tenant_without_a_recent_success_has_few_deliveries_under_way() -> None:
    breakers = CircuitBreakers()
    many = hosts("ann", 50)
    for channel in many:
        breakers.record_result(channel, FINE, 0.0)
    assert sum(breakers.choose(many, RECENT_S - 1).values()) == MAX_PER_TENANT
    assert sum(breakers.choose(many, RECENT_S).values()) == MAX_UNPROVEN_PER_TENANT


def test_a_receiver_that_works_does_not_lend_its_room_to_unproven_ones() -> None:
    breakers = CircuitBreakers()
    many = hosts("ann", 50)
    breakers.record_result(many[7], FINE, 0.0)
    chosen = breakers.choose(many, 0.0)
    assert chosen[many[7]] == PROVEN
    assert sum(chosen.values()) == PROVEN + MAX_UNPROVEN_PER_TENANT


def test_receivers_that_failed_wait_behind_those_that_did_not() -> None:
    breakers = CircuitBreakers()
    many = hosts("ann", 12)
    for channel in many[:10]:
        breakers.record_result(channel, DOWN, 0.0)
    assert breakers.choose(many, 0.0) == dict.fromkeys((*many[10:], *many[:2]), 1)


def test_the_breaker_of_a_tenant_stops_all_its_receivers_but_those_that_work() -> None:
    breakers = CircuitBreakers()
    many = hosts("ann", TENANT_OPENS_AFTER + 2)
    breakers.record_result(many[0], FINE, 0.0)
    for channel in many[1:-1]:
        breakers.record_result(channel, DOWN, 0.0)
    assert breakers.choose(many, FIRST_OPEN_S - 0.01) == {many[0]: PROVEN}
    assert breakers.choose(many, FIRST_OPEN_S) == {many[0]: PROVEN, many[-1]: 1}
    assert sum(breakers.choose(hosts("bob", 9), 0.0).values()) == MAX_UNPROVEN_PER_TENANT
    breakers.record_result(many[-1], FINE, FIRST_OPEN_S)
    unproven = breakers.choose(many[1:-1], FIRST_OPEN_S)
    assert sum(unproven.values()) == MAX_UNPROVEN_PER_TENANT


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
                    breakers.count_start(chosen)
        elif away:
            back = away.pop()
            breakers.count_end(back)
            breakers.record_result(back, FINE if act == "fine" else DOWN, float(now))
        assert breakers.in_flight == len(away) <= MAX_IN_FLIGHT
        for tenant in "abc":
            assert sum(receiver.tenant == tenant for receiver in away) <= MAX_PER_TENANT
        assert all(away.count(receiver) <= PROVEN for receiver in away)


@given(st.lists(st.tuples(channels_, st.booleans()), max_size=300))
def test_a_tenant_without_deliveries_finds_room_at_once(
    starts: list[tuple[DeliveryChannel, bool]],
) -> None:
    breakers = CircuitBreakers()
    for channel, works in starts:
        for chosen, count in breakers.choose([channel], 0.0).items():
            for _ in range(count):
                breakers.count_start(chosen)
        if works:
            breakers.record_result(channel, FINE, 0.0)
    new = DeliveryChannel("new", "n.example")
    assert breakers.choose([*(channel for channel, _ in starts), new], 0.0)[new] == UNPROVEN
