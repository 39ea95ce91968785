"""Files inside of URLs."""

from __future__ import annotations

from base64 import urlsafe_b64encode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.domain.media.data_uri import (
    begins_as_file,
    data_uri,
    is_data_uri,
    media_type_of_data_uri,
    read_data_uri,
)


@given(st.binary())
def test_a_file_is_read_as_it_was_written(content: bytes) -> None:
    uri = data_uri(content, "image/png")
    assert is_data_uri(uri)
    assert begins_as_file(uri)
    assert (media_type_of_data_uri(uri), read_data_uri(uri)) == ("image/png", content)


@given(st.binary())
def test_the_url_safe_alphabet_is_read_without_padding_too(content: bytes) -> None:
    encoded = urlsafe_b64encode(content).decode("ascii").rstrip("=")
    assert read_data_uri(f"DATA:;base64,{encoded}") == content


def test_line_breaks_and_percent_encoding_are_read() -> None:
    assert read_data_uri("data:text/plain;base64,aGVs\nbG8%3D") == b"hello"
    assert read_data_uri("data:text/plain;charset=utf-8,a%20b") == b"a b"


@pytest.mark.parametrize(("uri", "why"), [("data:x", "no comma"), ("data:;base64,a!", "be read")])
def test_what_cannot_be_read_says_why(uri: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        read_data_uri(uri)


@pytest.mark.parametrize("prose", ["data: the new oil, they say", "data:,x", "a data:a/b;base64,"])
def test_prose_does_not_begin_as_a_file(prose: str) -> None:
    assert not begins_as_file(prose)
