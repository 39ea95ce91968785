"""Tokens: their rights and their expiry."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from joserfc import jwt
from joserfc.jwk import OctKey

from serve_app.domain.errors import Unauthenticated
from serve_app.tenants.scopes import ADMIN, API, Caller
from serve_app.tenants.sign_in import ACTOR
from serve_app.tenants.signed_claims import read_claims, sign_claims
from serve_app.tenants.tokens import STREAM_VALID_S, StreamTokens, Tokens
from tests.fakes.clock import FakeClock
from tests.tenants.forged import strip_signature

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
    token = tokens.issue(OWNER, ["flux"], 60)
    claims = read_claims(token, SECRET, [], "It is not valid.")
    for forged in (
        strip_signature(token),
        jwt.encode({"alg": "HS512"}, claims, OctKey.import_key(SECRET), ["HS512"]),
        sign_claims(claims | {"iss": "other"}, SECRET),
        sign_claims({k: v for k, v in claims.items() if k != "exp"}, SECRET),
        sign_claims(claims | {"aud": "stream"}, SECRET),
    ):
        with pytest.raises(Unauthenticated):
            tokens.check(forged)


@given(st.text())
def test_whatever_is_no_token_is_refused(text: str) -> None:
    with pytest.raises(Unauthenticated):
        Tokens(SECRET, FakeClock()).check(text)


def test_a_token_of_a_stream_expires_and_is_for_its_request(clock: FakeClock) -> None:
    streams = StreamTokens(SECRET, clock)
    token = streams.issue(OWNER.key_id, "one")
    assert token is not None
    assert streams.key_of(token, "one") == OWNER.key_id
    with pytest.raises(Unauthenticated, match="another request"):
        streams.key_of(token, "two")
    clock.advance(STREAM_VALID_S)
    with pytest.raises(Unauthenticated, match="Get the prediction again"):
        streams.key_of(token, "one")


def test_tokens_of_streams_and_of_browsers_are_not_each_other(clock: FakeClock) -> None:
    streams, browsers = StreamTokens(SECRET, clock), Tokens(SECRET, clock)
    of_stream = streams.issue(OWNER.key_id, "one")
    assert of_stream is not None
    with pytest.raises(Unauthenticated):
        browsers.check(of_stream)
    with pytest.raises(Unauthenticated):
        streams.key_of(browsers.issue(OWNER, ["test/probe"], 60), "test/probe")


def test_a_person_without_a_key_gets_no_token_of_a_stream(clock: FakeClock) -> None:
    assert StreamTokens(SECRET, clock).issue(f"{ACTOR}somebody", "one") is None
