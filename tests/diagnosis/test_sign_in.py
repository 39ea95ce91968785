"""Check of the sign-in by ``darkroom doctor``, against a real provider."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from serve_app.diagnosis import checks
from serve_app.domain.errors import Misconfigured, ProviderUnavailable
from serve_app.ingress.services.sign_in import provider_of
from serve_app.settings import Config, Secrets
from serve_app.telemetry.clock import SystemClock
from tests.fakes.openid import CLIENT_ID, provider

GROUPS = {"artists": {"tenant": "studio"}}


@pytest.fixture(scope="module")
def issuer() -> Iterator[str]:
    with provider() as issuer:
        yield issuer


def config(issuer: str, **other: Any) -> Config:
    usual: dict[str, Any] = {
        "oidc_client_id": CLIENT_ID,
        "oidc_groups": GROUPS,
        "public_url": "https://gpu.example.org",
    }
    return Config(oidc_issuer=issuer, **usual | other)


def check_sign_in(config: Config) -> str:
    return checks.check_sign_in(config, provider_of(config, Secrets(), SystemClock()))


def test_a_good_sign_in_shows_its_redirect_address(issuer: str) -> None:
    sentence = check_sign_in(config(issuer))
    assert sentence == f"{issuer}, which sends browsers back to https://gpu.example.org/"


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"oidc_client_id": None}, "DARKROOM_OIDC_CLIENT_ID"),
        ({"oidc_groups": {}}, "names no group"),
        ({"public_url": None}, "DARKROOM_PUBLIC_URL is not set"),
        ({"public_url": "http://gpu.example.org"}, "https only"),
    ],
)
def test_a_wrong_setting_is_named(issuer: str, other: dict[str, Any], words: str) -> None:
    with pytest.raises(Misconfigured, match=words):
        check_sign_in(config(issuer, **other))


def test_an_issuer_that_calls_itself_otherwise_is_reported(issuer: str) -> None:
    with pytest.raises(Misconfigured, match="says that it is"):
        check_sign_in(config(f"{issuer}/"))


def test_a_provider_that_does_not_answer_is_reported() -> None:
    with pytest.raises(ProviderUnavailable, match="does not answer"):
        check_sign_in(config("http://127.0.0.1:9"))


def test_a_clock_that_is_wrong_is_reported(issuer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "MAX_CLOCK_DIFFERENCE_S", -1.0)
    with pytest.raises(Misconfigured, match="Set it by NTP"):
        check_sign_in(config(issuer))
