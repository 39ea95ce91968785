"""Signatures of private files."""

from __future__ import annotations

from urllib.parse import parse_qsl

import pytest

from serve_app.domain.errors import Forbidden
from serve_app.storage.signed_urls import READER, FileUrlSigner
from tests.fakes.clock import FakeClock

KEY = "p/rules/r/0195/1/a.png"


def at(clock: FakeClock, seconds: float) -> int:
    return int(clock.now().timestamp() + seconds)


def test_a_signature_is_valid_for_its_file_until_it_expires() -> None:
    clock = FakeClock()
    signer = FileUrlSigner(b"s" * 32, clock)
    url = signer.sign(KEY, at(clock, 60))
    params = dict(parse_qsl(url.query))
    assert signer.check(KEY, params, 0).expires_at == at(clock, 60)
    with pytest.raises(Forbidden, match="not valid for this file"):
        signer.check(f"{KEY}2", params, 0)
    clock.advance(60)
    with pytest.raises(Forbidden, match=r"expired at 2030-01-01T00:01:00\+00:00"):
        signer.check(KEY, params, 0)


def test_one_without_an_end_does_not_expire() -> None:
    clock = FakeClock()
    signer = FileUrlSigner(b"s" * 32, clock)
    params = dict(parse_qsl(signer.sign(KEY, None).query))
    clock.advance(1e9)
    assert signer.check(KEY, params, 0).expires_at is None


@pytest.mark.parametrize(
    "change",
    [
        {"expires": "9999999999"},
        {"expires": ""},
        {"expires": "x"},
        {"id": "other"},
        {"signature": ""},
        {"signature": "é"},
        {"expires": "1\0", "id": ""},
    ],
)
def test_what_was_changed_is_refused(change: dict[str, str]) -> None:
    clock = FakeClock()
    signer = FileUrlSigner(b"s" * 32, clock)
    params = dict(parse_qsl(signer.sign(KEY, at(clock, 60), unique=True).query)) | change
    with pytest.raises(Forbidden):
        signer.check(KEY, params, 0)


def test_the_next_generation_of_a_file_refuses_all_signatures_of_the_last_one() -> None:
    signer = FileUrlSigner(b"s" * 32, FakeClock())
    params = dict(parse_qsl(signer.sign(KEY, None, 0).query))
    with pytest.raises(Forbidden):
        signer.check(KEY, params, 1)
    assert signer.check(KEY, dict(parse_qsl(signer.sign(KEY, None, 1).query)), 1)


def test_equal_arguments_give_one_url_unless_it_has_to_be_unique() -> None:
    signer = FileUrlSigner(b"s" * 32, FakeClock())
    assert signer.sign(KEY, 5) == signer.sign(KEY, 5)
    assert signer.sign(KEY, 5, unique=True) != signer.sign(KEY, 5, unique=True)


@pytest.mark.parametrize("tenant", ["default", "Ünïcode. & more", "a\0b"])
def test_the_token_of_a_replica_names_its_tenant_until_it_expires(tenant: str) -> None:
    clock = FakeClock()
    signer = FileUrlSigner(b"s" * 32, clock)
    header = f"Bearer {signer.reader_token(tenant, 60)}"
    assert signer.reader(header) == tenant
    clock.advance(60)
    with pytest.raises(Forbidden, match="expired"):
        signer.reader(header)


def test_a_token_of_another_secret_or_without_its_parts_is_refused() -> None:
    clock = FakeClock()
    token = FileUrlSigner(b"t" * 32, clock).reader_token("default", 60)
    for text in (token, f"{READER}.", f"{READER}.a.b.c", f"{READER}.=.5.x", f"{READER}.a.1.b.c"):
        with pytest.raises(Forbidden, match="not valid"):
            FileUrlSigner(b"s" * 32, clock).reader(f"Bearer {text}")


def test_other_credentials_are_no_token_of_a_replica() -> None:
    signer = FileUrlSigner(b"s" * 32, FakeClock())
    for header in (None, "", "Key id:secret", "Bearer a.b.c", f"Key {READER}.a.b.c"):
        assert signer.reader(header) is None
