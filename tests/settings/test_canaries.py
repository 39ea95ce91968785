"""Pools that try other code or settings beside a pool, by the settings."""

from __future__ import annotations

from typing import Any

import pytest

from serve_app.app import applications
from serve_app.domain.errors import Misconfigured
from serve_app.settings import PoolConfig, overflow_pools, read_config

FLUX = {"families": ["flux"], "accelerator": "H100", "num_gpus": 1, "max_replicas": 8, "slots": 3}
CODE = "local:///opt/darkroom-next"


def read(**pools: dict[str, Any]) -> dict[str, PoolConfig]:
    return read_config({"pools": pools}).models.pools or {}


def test_a_canary_has_what_it_does_not_set_from_its_pool_but_not_the_numbers_of_replicas() -> None:
    pools = read(flux=FLUX, next={"canary_of": "flux", "code": CODE, "slots": 2})
    canary = pools["next"]
    assert (canary.families, canary.accelerator, canary.num_gpus) == (("flux",), "H100", 1)
    assert (canary.slots, canary.min_replicas, canary.max_replicas) == (2, 1, 1)
    assert (canary.code, pools["flux"].code) == (CODE, "")


def test_a_canary_stands_beside_its_pool_and_before_what_takes_its_overflow() -> None:
    pools = read(flux=FLUX, spot={"overflow_of": "flux"}, next={"canary_of": "flux", "slots": 1})
    chains = overflow_pools(pools)
    assert {name: chains.rank(name) for name in pools} == {"flux": 0, "spot": 1, "next": 0}
    assert {chains.queue_of(name) for name in pools} == {"flux"}
    assert chains.canaries.keys() == {"next"}


def test_a_canary_of_overflow_takes_what_that_takes_at_its_place() -> None:
    pools = read(flux=FLUX, spot={"overflow_of": "flux"}, next={"canary_of": "spot", "slots": 1})
    assert overflow_pools(pools).rank("next") == 1


def test_other_code_is_another_canary_and_other_numbers_of_replicas_are_not() -> None:
    def digest(**changes: Any) -> str:
        canary = {"canary_of": "flux", "code": CODE, **changes}
        return overflow_pools(read(flux=FLUX, next=canary)).canaries["next"]

    assert digest() == digest(min_replicas=2, max_replicas=2)
    assert digest() != digest(code=f"{CODE}-2")
    assert digest() != digest(slots=1)


@pytest.mark.parametrize(
    ("pools", "pattern"),
    [
        ({"b": {"canary_of": "a"}}, r"b\.canary_of is a, which is no pool.*Other pools: none"),
        ({"a": FLUX, "b": {"canary_of": "b"}}, r"b\.canary_of is b.*Other pools: a"),
        (
            {"a": FLUX, "b": {"canary_of": "a"}, "c": {"canary_of": "b"}},
            r"c\.canary_of is b.*Other pools: a",
        ),
        (
            {"a": FLUX, "b": {"canary_of": "a", "overflow_of": "a"}},
            r"b has canary_of and overflow_of\. Remove one",
        ),
        (
            {"a": FLUX, "b": {"canary_of": "a"}, "c": {"overflow_of": "b"}},
            r"c\.overflow_of is b, which is a canary.*: a\.",
        ),
        (
            {"a": FLUX, "b": {"canary_of": "a", "families": ["sdxl"]}},
            r"b\.families differ from those of the pool in b\.canary_of",
        ),
        (
            {"a": FLUX, "b": {"canary_of": "a", "min_replicas": 0}},
            r"pools\.b.*canary without replicas; set min_replicas",
        ),
        ({"a": {**FLUX, "code": "/opt/next"}}, r"pools\.a\.code"),
    ],
)
def test_a_mistake_is_refused_with_the_keys_that_make_it(pools: Any, pattern: str) -> None:
    with pytest.raises(Misconfigured, match=pattern):
        read(**pools)


def test_its_application_runs_its_code_from_the_builder_on() -> None:
    apps = applications({"pools": {"flux": FLUX, "next": {"canary_of": "flux", "code": CODE}}})
    canary = apps["darkroom-next"]
    assert canary.entry["runtime_env"] == {"py_modules": [CODE]}
    assert "runtime_env" not in apps["darkroom-flux"].entry
    ours = {"families": ["flux"], "accelerator": "H100", "num_gpus": 1, "slots": 3, "code": CODE}
    assert canary.args["pools"] == {"next": ours}
    deployed = canary.target._bound_deployment.init_args[0]._bound_deployment
    assert deployed.ray_actor_options["runtime_env"]["py_modules"] == [CODE]
