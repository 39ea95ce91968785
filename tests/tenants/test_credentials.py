from __future__ import annotations

import pytest

from serve_app.domain.errors import Misconfigured
from serve_app.tenants.credentials import Credential, new_credential, parse, parse_setting


def test_a_new_secret_has_256_random_bits() -> None:
    first, two = new_credential(), new_credential()
    assert len(bytes.fromhex(first.secret)) == 32
    assert first.secret != two.secret
    assert first.id != two.id


def test_a_key_reads_back_as_it_was_written() -> None:
    credential = new_credential()
    assert parse(str(credential)) == credential


def test_a_secret_is_never_shown_by_accident() -> None:
    credential = new_credential()
    assert credential.secret not in repr(credential)
    assert credential.secret not in f"{[credential]}"


@pytest.mark.parametrize(
    "text", ["", "x", "a:b", "a:" + "b" * 15, "a b:" + "c" * 32, "a:" + "é" * 32]
)
def test_what_is_no_key_is_none(text: str) -> None:
    assert parse(text) is None


def test_an_operators_key_that_is_none_names_the_setting() -> None:
    assert parse_setting(" a:" + "b" * 32 + "\n") == Credential("a", "b" * 32)
    with pytest.raises(Misconfigured, match="DARKROOM_API_KEY"):
        parse_setting("secret")
