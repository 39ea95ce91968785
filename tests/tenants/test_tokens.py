"""Tokens: their rights and their expiry."""

from __future__ import annotations

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.domain.errors import Unauthenticated
from serve_app.tenants.scopes import ADMIN, API, Caller
from serve_app.tenants.tokens import ALGORITHM, Tokens
from tests.fakes.clock import FakeClock

SECRET = b"s" * 32
OWNER = Caller("dk_1", "acme", frozenset({API, ADMIN}))


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def tokens(clock: FakeClock) -> Tokens:
    return Tokens(SECRET, clock)


def test_a_token_names_its_key_and_its_tenant(tokens: Tokens) -> None:
    granted = tokens.check(tokens.issue(OWNER, ["flux"], 60))
    assert (granted.key_id, granted.tenant) == ("dk_1", "acme")


@pytest.mark.parametrize(
    ("app", "allowed"),
    [
        ("flux", True),
        ("fal-ai/flux", True),
        ("fal-ai/flux/schnell", True),
        ("fal-ai/flux/schnell/realtime", True),
        ("fal-ai/flux/schnell/stream", True),
        ("fal-ai", False),
        ("fal-ai/flu", False),
        ("fal-ai/flux/dev", False),
        ("schnell", False),
        ("", False),
    ],
)
def test_a_token_allows_what_it_names(tokens: Tokens, app: str, allowed: bool) -> None:
    granted = tokens.check(tokens.issue(OWNER, ["other/thing", app], 60))
    assert granted.allows("fal-ai/flux/schnell", "flux") is allowed


def test_a_token_expires(tokens: Tokens, clock: FakeClock) -> None:
    token = tokens.issue(OWNER, ["flux"], 60)
    clock.advance(59)
    tokens.check(token)
    clock.advance(1)
    with pytest.raises(Unauthenticated, match="expired"):
        tokens.check(token)


def test_a_token_of_another_installation_is_refused(tokens: Tokens, clock: FakeClock) -> None:
    token = Tokens(b"o" * 32, clock).issue(OWNER, ["flux"], 60)
    with pytest.raises(Unauthenticated, match="not valid"):
        tokens.check(token)


def test_a_token_that_signs_itself_is_refused(tokens: Tokens, clock: FakeClock) -> None:
    claims = jwt.decode(tokens.issue(OWNER, ["flux"], 60), options={"verify_signature": False})
    for forged in (
        jwt.encode(claims, None, "none"),
        jwt.encode(claims | {"iss": "other"}, SECRET, ALGORITHM),
        jwt.encode({k: v for k, v in claims.items() if k != "exp"}, SECRET, ALGORITHM),
    ):
        with pytest.raises(Unauthenticated):
            tokens.check(forged)


@given(st.text())
def test_whatever_is_no_token_is_refused(text: str) -> None:
    with pytest.raises(Unauthenticated):
        Tokens(SECRET, FakeClock()).check(text)
