from __future__ import annotations

from datetime import timedelta

import pytest

from serve_app.domain.errors import Unauthenticated
from serve_app.tenants.scopes import API, Caller
from serve_app.tenants.signed_claims import sign_claims
from serve_app.tenants.tokens import CLIENT_VALID_S, VALID_S, UploadGrant, UploadTokens
from tests.fakes.clock import FakeClock
from tests.tenants.forged import strip_signature

SECRET = b"s" * 32
CALLER = Caller("dk_1", "studio", frozenset({API}))
GRANT = UploadGrant("studio", "dk_1")


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def tokens(clock: FakeClock) -> UploadTokens:
    return UploadTokens(SECRET, clock)


def test_a_token_names_its_tenant_and_its_key(tokens: UploadTokens) -> None:
    assert tokens.grant_of(f"Bearer {tokens.make(CALLER).text}") == GRANT


def test_the_client_gets_an_earlier_end_than_the_true_one(
    tokens: UploadTokens, clock: FakeClock
) -> None:
    token = tokens.make(CALLER)
    assert token.expires_at == clock.now() + timedelta(seconds=CLIENT_VALID_S)
    clock.advance(VALID_S - 1)
    assert tokens.grant_of(f"Bearer {token.text}") == GRANT
    clock.advance(1)
    with pytest.raises(Unauthenticated, match="expired"):
        tokens.grant_of(f"Bearer {token.text}")


@pytest.mark.parametrize("header", [None, "", "Key id:secret", "Bearer id:secret", "Basic x"])
def test_what_is_no_token_is_left_to_others(tokens: UploadTokens, header: str | None) -> None:
    assert tokens.grant_of(header) is None


def test_what_we_did_not_sign_for_uploads_is_refused(
    tokens: UploadTokens, clock: FakeClock
) -> None:
    claims = {"aud": "uploads", "sub": "studio", "key": "dk_1", "exp": clock.now().timestamp() + 60}
    forged = [
        "x",
        sign_claims(claims, b"o" * 32),
        strip_signature(sign_claims(claims, SECRET)),
        sign_claims({**claims, "aud": "realtime"}, SECRET),
        sign_claims({"aud": "uploads", "sub": "studio", "key": "dk_1"}, SECRET),
        sign_claims({**claims, "key": None}, SECRET),
        tokens.make(CALLER).text[:-2],
    ]
    for token in forged:
        with pytest.raises(Unauthenticated, match="not valid"):
            tokens.grant_of(f"Bearer {token}")
