"""How many deliveries of a channel may be on their way."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from serve_app.domain.webhook import Answer, Channel
from serve_app.webhooks.channels import (
    FIRST_OPEN_S,
    LONGEST_OPEN_S,
    MOST,
    MOST_OF_TENANT,
    OPENS_AFTER,
    PROVEN,
    UNPROVEN,
    Channels,
)

CHANNEL = Channel("ann", "a.example")
FINE = Answer(0.1, 200)
DOWN = Answer(0.1, None, "No connection.")


def failing(channels: Channels, times: int, now: float = 0.0) -> None:
    for _ in range(times):
        channels.heard(CHANNEL, DOWN, now)


def test_a_receiver_has_to_prove_itself() -> None:
    channels = Channels()
    assert channels.choose([CHANNEL], 0.0) == {CHANNEL: UNPROVEN}
    channels.heard(CHANNEL, FINE, 0.0)
    assert channels.choose([CHANNEL], 0.0) == {CHANNEL: PROVEN}
    channels.heard(CHANNEL, DOWN, 0.0)
    assert channels.choose([CHANNEL], 0.0) == {CHANNEL: 1}


def test_a_channel_closes_after_failures_in_a_row_and_then_lets_one_through() -> None:
    channels = Channels()
    failing(channels, OPENS_AFTER)
    assert channels.choose([CHANNEL], FIRST_OPEN_S - 0.01) == {}
    assert channels.choose([CHANNEL], FIRST_OPEN_S) == {CHANNEL: 1}
    channels.left(CHANNEL)
    assert channels.choose([CHANNEL], FIRST_OPEN_S) == {}
    channels.back(CHANNEL)
    channels.heard(CHANNEL, FINE, FIRST_OPEN_S)
    assert channels.choose([CHANNEL], FIRST_OPEN_S) == {CHANNEL: PROVEN}


def test_it_stays_closed_longer_each_time_but_never_for_long() -> None:
    channels = Channels()
    failing(channels, OPENS_AFTER + 1)
    assert channels.choose([CHANNEL], 1.9 * FIRST_OPEN_S) == {}
    failing(channels, 1000)
    assert channels.choose([CHANNEL], LONGEST_OPEN_S) == {CHANNEL: 1}


def test_a_receiver_that_refuses_some_is_not_down() -> None:
    channels = Channels()
    for status in (400, 404, 422, 410, 302) * 3:
        channels.heard(CHANNEL, Answer(0.1, status, "No."), 0.0)
    assert channels.choose([CHANNEL], 0.0) == {CHANNEL: PROVEN}
    for status in (500, 502, 503, 429, 504):
        channels.heard(CHANNEL, Answer(0.1, status, "No."), 0.0)
    assert channels.choose([CHANNEL], 0.0) == {}


def test_the_same_host_of_another_tenant_is_another_channel() -> None:
    channels = Channels()
    failing(channels, OPENS_AFTER)
    other = Channel("bob", CHANNEL.host)
    assert channels.choose([CHANNEL, other], 0.0) == {other: UNPROVEN}


def test_a_tenant_with_many_hosts_leaves_room_for_others() -> None:
    channels = Channels()
    many = [Channel("ann", f"{n}.example") for n in range(500)]
    bob = Channel("bob", "b.example")
    chosen = channels.choose([*many, bob], 0.0)
    assert sum(chosen.values()) == MOST_OF_TENANT + UNPROVEN
    assert chosen[bob] == UNPROVEN


channels_ = st.builds(Channel, st.sampled_from("abc"), st.sampled_from([str(n) for n in range(30)]))


@given(st.lists(st.tuples(st.sampled_from(["go", "fine", "down"]), channels_), max_size=200))
def test_whatever_happens_the_caps_hold(acts: list[tuple[str, Channel]]) -> None:
    channels, away = Channels(), list[Channel]()
    for now, (act, channel) in enumerate(acts):
        if act == "go":
            for chosen, count in channels.choose([channel, *away], float(now)).items():
                away += [chosen] * count
                for _ in range(count):
                    channels.left(chosen)
        elif away:
            back = away.pop()
            channels.back(back)
            channels.heard(back, FINE if act == "fine" else DOWN, float(now))
        assert channels.under_way == len(away) <= MOST
        for tenant in "abc":
            assert sum(each.tenant == tenant for each in away) <= MOST_OF_TENANT
        assert all(away.count(each) <= PROVEN for each in away)
