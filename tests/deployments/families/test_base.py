"""Loading of families, and the cost of importing them."""

import subprocess
import sys
from typing import ClassVar

import pytest

from deployments.engine.interception.model_traits import ModelTrait
from deployments.families.base import load_families, model_rules_of
from deployments.families.registry import FAMILIES
from serve_app.domain.errors import Misconfigured
from tests.fakes.family import ProbeFamily


def test_families_are_found_by_their_path():
    families = load_families({**FAMILIES, "probe": "tests.fakes.family:ProbeFamily"})
    assert {name: family.name for name, family in families.items()} == {
        **{name: name for name in FAMILIES},
        "probe": "probe",
    }


@pytest.mark.parametrize(
    "path", ["nowhere:Class", "deployments.families.flux:Nobody", "", "deployments"]
)
def test_a_family_that_is_not_there_is_named(path):
    with pytest.raises(Misconfigured, match="mine"):
        load_families({"mine": path})


class HouseFamily(ProbeFamily):
    models: ClassVar = {"HouseTransformer": ModelTrait(merge_refusal="it has a reason")}


class HouseTransformer:
    pass


def test_the_engine_gets_what_a_family_declares_about_its_models():
    rules = model_rules_of({"probe": ProbeFamily(), "house": HouseFamily()})
    assert rules.of(HouseTransformer).merge_refusal == "it has a reason"
    assert not model_rules_of({"probe": ProbeFamily()}).of(HouseTransformer).merge_refusal


@pytest.mark.long
def test_binding_a_pool_imports_no_torch():
    families = ", ".join(
        [*(path.partition(":")[0] for path in FAMILIES.values()), "tests.fakes.family"]
    )
    modules = f"deployments.replica.deployment, deployments.families.base, {families}"
    code = f"""
import sys
import {modules}
heavy = {{"torch", "diffusers", "transformers", "deployments.engine.engine"}} & set(sys.modules)
sys.exit(f"imported: {{heavy}}" if heavy else 0)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr
