"""Pools that take the overflow of another one, by the settings."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.app import applications
from serve_app.domain.errors import Misconfigured
from serve_app.settings import PoolConfig, overflow_pools, read_config
from serve_app.settings.overflow import OverflowPools, mistakes

SPOT = {"families": ["flux"], "max_replicas": 4}


def read(**pools: dict[str, Any]) -> dict[str, PoolConfig]:
    return read_config({"pools": pools}).models.pools or {}


def test_an_overflow_pool_has_the_families_of_the_pool_at_the_head_of_its_chain() -> None:
    pools = read(
        spot=SPOT,
        demand={"overflow_of": "spot", "max_replicas": 2},
        large={"overflow_of": "demand", "accelerator": "H100", "num_gpus": 1},
    )
    assert {pool.families for pool in pools.values()} == {("flux",)}
    chains = overflow_pools(pools)
    assert chains.chain("spot") == ("spot", "demand", "large")
    assert [chains.rank(name) for name in pools] == [0, 1, 2]
    assert {chains.queue_of(name) for name in pools} == {"spot"}
    assert chains.device_bytes == {"large": int(80e9)}


def test_a_pool_that_takes_no_overflow_is_a_chain_of_its_own() -> None:
    chains = overflow_pools(read(spot=SPOT, other=SPOT))
    assert (chains.chain("spot"), chains.queue_of("other")) == (("spot",), "other")


@pytest.mark.parametrize(
    ("pools", "pattern"),
    [
        ({"b": {"overflow_of": "a"}}, r"b\.overflow_of is a, which is no pool.*Other pools: none"),
        ({"a": {"overflow_of": "a"}}, r"a\.overflow_of is the pool itself"),
        ({"workflows": {"families": ("flux",)}}, r"The name workflows is taken"),
        (
            {"a": {"overflow_of": "b"}, "b": {"overflow_of": "a"}},
            r"a\.overflow_of is b, whose own chain of overflow_of leads back to a",
        ),
        (
            {"a": SPOT, "b": {"overflow_of": "a"}, "c": {"overflow_of": "a"}},
            r"b\.overflow_of and c\.overflow_of are both a.*c\.overflow_of: b",
        ),
        (
            {"a": SPOT, "b": {"overflow_of": "a", "families": ["sdxl"]}},
            r"b\.families differ from those of the pool in b\.overflow_of",
        ),
        ({"a": {}}, r"pools\.a.*it needs families, overflow_of or canary_of"),
    ],
)
def test_a_mistake_is_refused_with_the_keys_that_make_it(pools: Any, pattern: str) -> None:
    with pytest.raises(Misconfigured, match=pattern):
        read(**pools)


names = st.sampled_from("abcdef")


@given(st.dictionaries(names, names | st.just("")))
def test_settings_without_a_mistake_are_chains_that_each_have_one_head(
    pools: dict[str, str],
) -> None:
    if list(mistakes(pools)):
        return
    chains = OverflowPools({pool: before for pool, before in pools.items() if before})
    heads = [pool for pool, before in pools.items() if not before]
    assert sorted(pool for head in heads for pool in chains.chain(head)) == sorted(pools)
    for head in heads:
        chain = chains.chain(head)
        assert [chains.rank(pool) for pool in chain] == list(range(len(chain)))
        assert all(pools[later] == earlier for earlier, later in pairwise(chain))


@given(st.dictionaries(names, names | st.just(""), min_size=1))
def test_settings_with_a_cycle_or_an_unknown_pool_always_have_a_mistake(
    pools: dict[str, str],
) -> None:
    def head(pool: str) -> str | None:
        for _ in range(len(pools) + 1):
            if not pools.get(pool, "?"):
                return pool
            pool = pools.get(pool, "?")
        return None

    if any(head(pool) is None for pool in pools):
        assert list(mistakes(pools))


def test_it_has_an_application_that_a_change_of_its_place_does_not_replace() -> None:
    settings = {
        "pools": {
            "spot": SPOT,
            "demand": {"overflow_of": "spot", "overflow_after_s": 60, "slots": 2},
        }
    }
    application = applications(settings)["darkroom-demand"]
    assert application.args["pools"] == {"demand": {"families": ["flux"], "slots": 2}}
    assert application.target is not None
