"""Notices of spot machines, from services that answer as the clouds document theirs."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from serve_app.domain.errors import Misconfigured, Unavailable
from serve_app.scaling.spot_notices import source_of
from tests.fakes.clock import FakeClock
from tests.fakes.metadata_service import FakeMetadataService, metadata_service

CLOUDS = ("aws", "gcp", "azure")
NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
END = NOW + timedelta(seconds=100)


@pytest.fixture(params=CLOUDS)
def service(request: pytest.FixtureRequest) -> Iterator[FakeMetadataService]:
    with metadata_service(request.param) as fake:
        yield fake


def test_the_cloud_is_found_by_what_its_service_answers(service: FakeMetadataService) -> None:
    source = source_of(None, service.url, FakeClock(NOW))
    assert source.name == service.cloud
    assert source.read() is None


@pytest.mark.long
def test_a_notice_says_when_the_machine_ends(service: FakeMetadataService) -> None:
    source = source_of(service.cloud, service.url, FakeClock(NOW))
    assert source.read() is None
    service.ends_at = END
    notice = source.read()
    assert notice is not None
    says_when = service.cloud != "gcp"  # it only says that it ends: within 30 s
    assert notice.at == (END if says_when else NOW + timedelta(seconds=30))


@pytest.mark.long
def test_a_service_that_breaks_down_is_named_and_asked_again(service: FakeMetadataService) -> None:
    source = source_of(service.cloud, service.url, FakeClock(NOW))
    service.broken = True
    with pytest.raises(Unavailable, match="502: <html> Bad Gateway"):
        source.read()
    service.broken = False
    service.ends_at = END
    assert source.read() is not None


def test_a_service_that_is_not_there_is_named() -> None:
    with metadata_service("aws") as gone:
        url = gone.url
    for cloud in CLOUDS:
        with pytest.raises(Unavailable, match="does not answer"):
            source_of(cloud, url, FakeClock(NOW)).read()
    with pytest.raises(Misconfigured, match="aws, gcp, azure"):
        source_of(None, url, FakeClock(NOW))


def test_amazons_token_is_renewed_when_it_has_expired() -> None:
    with metadata_service("aws") as service:
        source = source_of("aws", service.url, FakeClock(NOW))
        assert source.read() is None
        service.expire_token()
        service.ends_at = END
        notice = source.read()
    assert notice is not None
    assert notice.at == END


def test_azures_notice_for_another_machine_is_none_for_this_one() -> None:
    with metadata_service("azure") as service:
        source = source_of("azure", service.url, FakeClock(NOW))
        service.ends_at, service.of = END, "vm-8"
        assert source.read() is None
        service.of = "vm-7"
        assert source.read() is not None
