from __future__ import annotations

import re
from dataclasses import replace

import pytest

from serve_app.domain.artifact import THUMBNAIL_TYPE
from serve_app.domain.errors import Unavailable
from serve_app.domain.lease import LeaseKey
from serve_app.domain.media.marking import MarkPolicy
from serve_app.domain.media.safety import SafetyPolicy
from serve_app.ingress.services.lease_terms import CatalogLeaseTerms, FilePolicy, Places
from serve_app.ingress.services.pool_map import STUDIO, PoolMap
from serve_app.settings import PoolConfig, read_config
from serve_app.storage.keys import location_id
from tests.fakes.clock import FakeClock
from tests.fakes.storage import FakeStorage
from tests.ingress.house import CATALOG

FLUX = CATALOG.get("fal-ai/flux/schnell").endpoint
PROBE = CATALOG.get("test/probe").endpoint

SECRET = b"s" * 32


@pytest.fixture
def terms() -> CatalogLeaseTerms:
    return CatalogLeaseTerms(
        CATALOG, FakeStorage(b"k" * 32, "http://in", FakeClock()), 4096, names_secret=SECRET
    )


def test_a_lease_says_where_our_own_files_are_read() -> None:
    storage = FakeStorage(b"k" * 32, "http://in", FakeClock())
    assert (
        CatalogLeaseTerms(CATALOG, storage, 1, files_url="http://in", names_secret=SECRET).files_url
        == "http://in"
    )


def test_a_lease_gets_one_ticket_for_each_file_of_its_type(terms: CatalogLeaseTerms) -> None:
    parameters = {"num_images": 2, "output_format": "png"}
    tickets = terms.tickets(LeaseKey("0195-a", 3), "studio", FLUX, parameters)
    assert [ticket.media_type for ticket in tickets] == ["image/png"] * 2
    assert all(ticket.key.startswith("r/0195-a/3/") for ticket in tickets)
    assert all(ticket.max_bytes == 4096 for ticket in tickets)
    assert len({ticket.key for ticket in tickets}) == 2


def test_each_ticket_has_one_for_a_thumbnail_with_a_name_of_its_own(
    terms: CatalogLeaseTerms,
) -> None:
    parameters = {"num_images": 2, "output_format": "png"}
    tickets = terms.tickets(LeaseKey("0195-a", 3), "studio", FLUX, parameters)
    small = [ticket.thumbnail for ticket in tickets if ticket.thumbnail is not None]
    assert [thumbnail.media_type for thumbnail in small] == [THUMBNAIL_TYPE] * 2
    assert all(re.fullmatch(r"r/0195-a/3/[\w-]{22}\.webp", thumbnail.key) for thumbnail in small)
    assert len({ticket.key.partition(".")[0] for ticket in (*small, *tickets)}) == 4
    assert terms.tickets(LeaseKey("0195-a", 3), "studio", FLUX, parameters) == tickets


def test_a_file_of_an_executor_has_a_ticket_for_a_thumbnail_if_it_shows_something(
    terms: CatalogLeaseTerms,
) -> None:
    types = "image/png", "video/mp4", "audio/wav", "image/svg+xml", "application/json"
    lease_key = LeaseKey("0195-a", 3)
    tickets = [
        terms.file_ticket(lease_key, "studio", *numbered_type) for numbered_type in enumerate(types)
    ]
    small = [ticket.thumbnail for ticket in tickets]
    assert [thumbnail and thumbnail.media_type for thumbnail in small] == [
        *[THUMBNAIL_TYPE] * 2,
        None,
        None,
        None,
    ]
    assert len({ticket.key for ticket in (*small, *tickets) if ticket is not None}) == 7
    assert terms.file_ticket(lease_key, "studio", 0, types[0]) == tickets[0]


def test_without_thumbnails_there_are_no_tickets_for_them() -> None:
    storage = FakeStorage(b"k" * 32, "http://in", FakeClock())
    terms = CatalogLeaseTerms(
        CATALOG, storage, 1, names_secret=SECRET, files=FilePolicy(thumbnails=False)
    )
    (ticket,) = terms.tickets(LeaseKey("0195-a", 3), "studio", FLUX, {"output_format": "png"})
    assert ticket.thumbnail is None


def test_a_request_without_files_gets_no_ticket(terms: CatalogLeaseTerms) -> None:
    assert terms.tickets(LeaseKey("0195-a", 1), "studio", PROBE, {}) == ()


def test_an_endpoint_that_left_the_catalogue_is_none(terms: CatalogLeaseTerms) -> None:
    assert terms.endpoint("gone/away") is None
    assert terms.endpoint(FLUX.id) == FLUX


def test_without_pools_one_hosts_all() -> None:
    assert PoolMap(None).pool_of(FLUX) == PoolMap(None).pool_of(PROBE) == STUDIO


def test_the_first_pool_that_hosts_a_family_takes_it() -> None:
    pools = {
        "big": PoolConfig(families=("video",)),
        "one": PoolConfig(families=("flux", "video")),
        "two": PoolConfig(families=("flux",)),
    }
    assert PoolMap(pools).pool_of(FLUX) == "one"
    with pytest.raises(Unavailable, match="`probe`"):
        PoolMap(pools).pool_of(PROBE)


def test_a_pool_that_names_endpoints_gets_these_and_no_others() -> None:
    own = PoolConfig(families=("flux",), endpoints=(FLUX.id,))
    rest = PoolConfig(families=("flux", "probe"))
    pools = PoolMap({"own": own, "rest": rest})
    other = replace(FLUX, id="fal-ai/flux/other")
    assert [pools.pool_of(endpoint) for endpoint in (FLUX, other, PROBE)] == ["own", "rest", "rest"]
    with pytest.raises(Unavailable, match="except for other `endpoints`"):
        PoolMap({"own": own}).pool_of(other)
    lacks_family = PoolConfig(families=("probe",), endpoints=(FLUX.id,))
    with pytest.raises(Unavailable, match="does not host its family `flux`"):
        PoolMap({"rest": rest, "wrong": lacks_family}).pool_of(FLUX)


def test_the_names_of_files_are_the_same_each_time_and_those_of_each_attempt_its_own() -> None:
    def keys(request_id: str, attempt: int, secret: bytes = SECRET, nonce: int = 5) -> list[str]:
        storage = FakeStorage(b"k" * 32, "http://in", FakeClock())
        terms = CatalogLeaseTerms(CATALOG, storage, 1, names_secret=secret)
        endpoint = CATALOG.get("test/probe").endpoint
        lease_key = LeaseKey(request_id, attempt, nonce)
        return [t.key for t in terms.tickets(lease_key, "studio", endpoint, {"artifacts": 3})]

    assert keys("a", 1) == keys("a", 1)
    others = [keys("a", 1), keys("a", 2), keys("b", 1), keys("a", 1, b"t" * 32)]
    others.append(keys("a", 1, nonce=6))
    assert len({key for file_keys in others for key in file_keys}) == 15


@pytest.mark.parametrize("key", ["overflow_of", "canary_of"])
def test_a_pool_that_takes_requests_of_another_one_is_the_pool_of_no_endpoint(key: str) -> None:
    first = PoolConfig(families=(FLUX.family,))
    rest = PoolConfig.model_validate(
        {"families": (FLUX.family,), "endpoints": (FLUX.id,), key: "first"}
    )
    pools = PoolMap({"rest": rest, "first": first})
    assert pools.pool_of(FLUX) == pools.pool_of(FLUX, "first") == "first"
    with pytest.raises(Unavailable, match=r"names the pool rest.*requests of first.*Name first"):
        pools.pool_of(FLUX, "rest")


def test_endpoints_that_a_pool_does_not_name_or_whose_recipes_are_too_large_do_not_fit_it(
    terms: CatalogLeaseTerms,
) -> None:
    every = frozenset(entry.endpoint.id for entry in CATALOG)
    assert terms.unfit(frozenset(), 0) == frozenset()
    assert terms.unfit(frozenset({FLUX.id}), 0) == every - {FLUX.id}
    with_recipes = {entry.endpoint.id for entry in CATALOG if entry.endpoint.recipes}
    assert terms.unfit(frozenset(), 1) == with_recipes
    assert not terms.unfit(frozenset(), 10**15)


def test_a_tenant_may_have_its_own_policy_for_marks() -> None:
    config = read_config(
        {"mark_files": "required", "tenant_mark_files": {"lab": "off"}, "describe_files": False}
    )
    storage = FakeStorage(b"k" * 32, "http://in", FakeClock())
    files = FilePolicy.of(config, SafetyPolicy())
    terms = CatalogLeaseTerms(CATALOG, storage, 1, names_secret=SECRET, files=files)
    assert terms.marking("default") is MarkPolicy.REQUIRED
    assert terms.marking("lab") is MarkPolicy.OFF
    assert not terms.describe_files
    assert FilePolicy.of(read_config({}), SafetyPolicy()).marking.of("default") is MarkPolicy.ON


def test_files_of_a_tenant_go_to_its_location_and_are_found_when_it_has_changed() -> None:
    storage = FakeStorage(b"k" * 32, "http://in", FakeClock())
    places = {"studio": "acme"}
    terms = CatalogLeaseTerms(
        *(CATALOG, storage, 1),
        names_secret=SECRET,
        places=Places(lambda tenant: places.get(tenant, ""), ("acme", "borg")),
    )
    lease_key = LeaseKey("0195-a", 3)
    png = {"output_format": "png"}
    (there,) = terms.tickets(lease_key, "studio", FLUX, png)
    (own,) = terms.tickets(lease_key, "other", FLUX, png)
    assert there.thumbnail is not None
    assert [location_id(key) for key in (there.key, there.thumbnail.key)] == ["acme", "acme"]
    assert location_id(terms.snapshot_ticket(lease_key, "studio").key) == "acme"
    assert location_id(own.key) == location_id(terms.snapshot_ticket(lease_key, "other").key) == ""
    left = terms.leftovers(lease_key, FLUX, png)
    assert {there.key, there.thumbnail.key, own.key} < set(left)
    assert {location_id(key) for key in left} == {"", "acme", "borg"}
