from __future__ import annotations

from urllib.parse import parse_qsl, urlsplit

import pytest

from serve_app.domain.errors import Forbidden
from serve_app.storage.tickets import TicketGrant, TicketSigner
from tests.fakes.clock import FakeClock

KEY = "r/0195/1/abc.png"


def params(url: str) -> dict[str, str]:
    return dict(parse_qsl(urlsplit(url).query))


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def signer(clock: FakeClock) -> TicketSigner:
    return TicketSigner(b"secret", "http://in/", clock)


def test_a_ticket_grants_what_it_was_made_for(signer: TicketSigner) -> None:
    ticket = signer.sign(KEY, "image/png", 99, 60)
    assert signer.check(KEY, params(ticket.url)) == TicketGrant(KEY, "image/png", 99)


@pytest.mark.parametrize(
    ("name", "value"),
    [("type", "text/html"), ("max", "100"), ("expires", "99999999999"), ("signature", "00")],
)
def test_a_changed_ticket_grants_nothing(signer: TicketSigner, name: str, value: str) -> None:
    query = params(signer.sign(KEY, "image/png", 99, 60).url) | {name: value}
    with pytest.raises(Forbidden):
        signer.check(KEY, query)


def test_a_ticket_is_for_one_key(signer: TicketSigner) -> None:
    query = params(signer.sign(KEY, "image/png", 99, 60).url)
    with pytest.raises(Forbidden):
        signer.check("r/0195/2/abc.png", query)


def test_a_ticket_expires(signer: TicketSigner, clock: FakeClock) -> None:
    query = params(signer.sign(KEY, "image/png", 99, 60).url)
    clock.advance(59)
    signer.check(KEY, query)
    clock.advance(3)
    with pytest.raises(Forbidden, match="expired"):
        signer.check(KEY, query)


@pytest.mark.parametrize("missing", ["type", "max", "expires", "signature"])
def test_half_a_ticket_grants_nothing(signer: TicketSigner, missing: str) -> None:
    query = params(signer.sign(KEY, "image/png", 99, 60).url)
    del query[missing]
    with pytest.raises(Forbidden):
        signer.check(KEY, query)


def test_a_signature_that_is_no_ascii_is_refused(signer: TicketSigner) -> None:
    query = params(signer.sign(KEY, "image/png", 99, 60).url) | {"signature": "é"}
    with pytest.raises(Forbidden):
        signer.check(KEY, query)
