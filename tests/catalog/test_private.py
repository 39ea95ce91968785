"""Entries of private endpoints."""

from __future__ import annotations

import pytest

from serve_app.catalog.catalog import Catalog, load
from serve_app.catalog.private import (
    PrivateEndpoint,
    identity_of,
    private_entry,
    why_not_private,
)
from serve_app.domain.endpoint import Weights
from serve_app.domain.lora import RegisteredFileFacts
from tests.ingress.house import DEMO, MODELS

CATALOG = load(MODELS, demo=True, demo_dir=DEMO)
BASE = CATALOG.get_listed("fal-ai/flux/schnell")
FILES = (RegisteredFileFacts("transformer/a.safetensors", "d" * 64),)
MINE = PrivateEndpoint("house/mine", "house", BASE.endpoint.id, "flux", "finetune", FILES)


def test_a_fine_tune_replaces_files_of_its_base() -> None:
    entry = private_entry(BASE, MINE)
    assert entry.endpoint.options["replaced_files"] == {"transformer": {"a.safetensors": "d" * 64}}
    assert (entry.missing, entry.tenant, entry.base) == ("", "house", BASE.endpoint.id)
    assert entry.endpoint.weights == BASE.endpoint.weights


def test_a_lora_is_one_more_adapter_of_its_base() -> None:
    private = PrivateEndpoint("house/a", "house", MINE.base, "flux", "lora", FILES, scale=0.5)
    options = private_entry(BASE, private).endpoint.options
    assert options["adapters"] == [{"registered": "d" * 64, "scale": 0.5}]
    assert "replaced_files" not in options


def test_a_private_endpoint_is_not_served_once_its_base_has_other_weights() -> None:
    stale = PrivateEndpoint("house/a", "house", MINE.base, "flux@old", "finetune", FILES)
    assert "register them again" in private_entry(BASE, stale).missing


def test_the_identity_of_weights_changes_with_their_commit_but_not_with_the_installation() -> None:
    assert identity_of(Weights("/old/demo/flux")) == identity_of(Weights("/new/demo/flux"))
    assert identity_of(Weights("a/b", "1" * 40)) != identity_of(Weights("a/b", "2" * 40))


def test_private_endpoints_are_in_the_catalogue_of_their_tenant_only() -> None:
    catalog = Catalog({BASE.endpoint.id: BASE}).with_private([private_entry(BASE, MINE)])
    assert catalog.find("house/mine") is None
    assert catalog.of_tenant("other").find("house/mine") is None
    assert "house/mine" not in {listed.endpoint.id for listed in catalog.of_tenant("other")}
    assert catalog.of_tenant("house").get("house/mine").base == BASE.endpoint.id
    entry = catalog.find_any("house/mine")
    assert entry is not None
    catalog.become(Catalog({BASE.endpoint.id: BASE}))
    assert catalog.of_tenant("house").find("house/mine") is None


def test_a_public_endpoint_is_never_shadowed() -> None:
    same = PrivateEndpoint(BASE.endpoint.id, "fal-ai", MINE.base, "flux", "finetune", FILES)
    catalog = Catalog({BASE.endpoint.id: BASE}).with_private([private_entry(BASE, same)])
    assert catalog.of_tenant("fal-ai").get(BASE.endpoint.id) is BASE


@pytest.mark.parametrize(
    ("endpoint", "taken"),
    [
        ("house/mine", False),
        ("fal-ai/mine", True),
        ("stability-ai/mine", True),
        ("v1/mine", True),
        ("house/stream", True),
        ("house/requests", True),
    ],
)
def test_ids_that_could_be_taken_for_others_are_refused(endpoint: str, taken: bool) -> None:
    aliases = ("gpt-image-1", "stability-ai/sdxl")
    assert bool(why_not_private(endpoint, [BASE.endpoint.id], aliases)) is taken
