"""Division of the settings among Serve applications."""

import re

import pytest
from pydantic import ValidationError

from serve_app.settings import FIELDS, PoolConfig, read_config
from serve_app.settings.parts import (
    BOUNDS,
    LIVE,
    OF_REPLICAS,
    ONLY_OF_REPLICAS,
    ingress_arguments,
    pool_arguments,
)
from tests.docs.pages import ROOT

SETTINGS = ROOT / "docs" / "reference" / "settings.md"


def test_every_name_is_a_setting() -> None:
    assert FIELDS.keys() >= LIVE | OF_REPLICAS | ONLY_OF_REPLICAS
    assert PoolConfig.model_fields.keys() >= BOUNDS


def test_what_changes_without_a_restart_is_no_argument() -> None:
    settings = dict.fromkeys(FIELDS, 1)
    pool = PoolConfig(families=("flux",), min_replicas=2, max_replicas=3, slots=4)
    assert not ingress_arguments(settings, "/darkroom.yaml").keys() & LIVE
    arguments = pool_arguments(settings, "one", pool, {})
    assert arguments["pools"] == {"one": {"families": ["flux"], "slots": 4}}
    assert arguments.keys() & LIVE == {"pools"}


def test_only_a_pool_of_hosted_providers_has_thousands_of_slots() -> None:
    assert PoolConfig(families=("fal", "openai"), slots=3000).max_slots == 3000
    for families in (("flux",), ("python",), ("fal", "python")):
        with pytest.raises(ValidationError, match="2000 slots; more than 1000 are for pools that"):
            PoolConfig(families=families, slots=2000)


def test_a_pool_knows_its_own_families_only() -> None:
    pool = PoolConfig(families=("flux", "mine"))
    families = {"mine": "shop:Mine", "other": "shop:Other"}
    assert pool_arguments({}, "one", pool, families)["families"] == {"mine": "shop:Mine"}


def test_the_pools_of_the_environment_are_not_added_to_those_that_are_given(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pools = '{"one": {"families": ["flux"], "slots": 4}, "other": {"families": ["sdxl"]}}'
    monkeypatch.setenv("DARKROOM_POOLS", pools)
    config = read_config({})
    pool = (config.models.pools or {})["one"]
    assert (read_config(pool_arguments({}, "one", pool, {})).models.pools or {}) == {"one": pool}


def test_without_a_file_the_ingress_gets_live_settings_as_arguments() -> None:
    assert ingress_arguments({"max_waiting": 5}, None) == {"max_waiting": 5}


def test_the_page_lists_what_changes_without_a_restart() -> None:
    _, _, section = SETTINGS.read_text().partition("## Without a restart\n")
    listed, _, _ = section.partition("\n## ")
    assert set(re.findall(r"`(\w+)`", listed)) == LIVE
