from __future__ import annotations

from uuid import UUID

from serve_app.ingress.services import request_ids
from serve_app.ingress.services.request_ids import RequestIds
from tests.fakes.clock import FakeClock


def test_an_id_is_a_uuid_of_version_7_with_the_time_in_it() -> None:
    clock = FakeClock()
    request_id = UUID(RequestIds(clock)())
    assert request_id.version == 7
    assert request_id.variant == "specified in RFC 4122"
    assert request_id.int >> 80 == int(clock.now().timestamp() * 1000)


def test_ids_sort_by_age() -> None:
    clock = FakeClock()
    make = RequestIds(clock)
    ids: list[str] = []
    for _ in range(2000):
        ids.append(make())
        clock.advance(1e-6)
    assert ids == sorted(ids)
    assert len(set(ids)) == 2000


def test_only_the_usual_spelling_names_a_request() -> None:
    good = RequestIds(FakeClock())()
    assert request_ids.valid(good)
    for bad in (
        "",
        "x",
        good[:-1],
        good.replace("-", ""),
        f"{{{good}}}",
        good[:-1] + "g",
        "é" * 36,
    ):
        assert not request_ids.valid(bad)
