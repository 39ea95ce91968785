from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from serve_app.storage import keys


def test_a_key_names_the_attempt_and_cannot_be_guessed() -> None:
    first, two = (keys.artifact_key("0195-x", 3, "image/jpeg") for _ in range(2))
    assert first != two
    assert first.startswith("r/0195-x/3/")
    assert first.endswith(".jpg")
    assert len(first.rpartition("/")[2]) == 22 + len(".jpg")  # 128 bits in base64


def test_every_key_we_make_is_valid() -> None:
    assert all(keys.valid(keys.artifact_key("a-b", 1, "image/png")) for _ in range(500))


def test_a_name_that_no_file_system_has_is_no_key() -> None:
    """Anyone may ask for any key, and storage that works must not be reported as unavailable."""
    assert keys.valid("u/" + "a" * 255)
    assert not keys.valid("u/" + "a" * 256)


def test_a_type_comes_back_from_its_key() -> None:
    for media_type in ("image/png", "image/jpeg", "image/webp", "application/octet-stream"):
        assert keys.media_type_of(keys.artifact_key("a", 1, media_type)) == media_type
    assert keys.media_type_of("a/b.html") == "application/octet-stream"


@given(st.text(max_size=150))
@example("xn--caf-dma.png")
@example("日" * 150 + ".png")
@example("a" * 94 + "_日本日.png")
def test_an_upload_keeps_the_letters_of_its_name_in_a_valid_key(name: str) -> None:
    key = keys.upload_key("image/png", name)
    assert keys.valid(key)
    assert len(key.rpartition("/")[2]) <= 104
    shown = keys.file_name(key)
    assert keys.upload_name("image/png", shown) == key.rpartition("/")[2]


@pytest.mark.parametrize("name", ["xn--.png", "xn--99999999.png", "xn--a-.png", "xn---ec4a.png"])
def test_a_name_that_no_upload_has_is_shown_as_it_is(name: str) -> None:
    assert keys.file_name(f"u/x/{name}") == name
