from __future__ import annotations

from serve_app.storage import keys


def test_a_key_names_the_attempt_and_cannot_be_guessed() -> None:
    one, two = (keys.artifact_key("0195-x", 3, "image/jpeg") for _ in range(2))
    assert one != two
    assert one.startswith("r/0195-x/3/")
    assert one.endswith(".jpg")
    assert len(one.rpartition("/")[2]) == 22 + len(".jpg")  # 128 bits in base64


def test_every_key_we_make_is_valid() -> None:
    assert all(keys.valid(keys.artifact_key("a-b", 1, "image/png")) for _ in range(500))


def test_a_type_comes_back_from_its_key() -> None:
    for media_type in ("image/png", "image/jpeg", "image/webp", "application/octet-stream"):
        assert keys.media_type_of(keys.artifact_key("a", 1, media_type)) == media_type
    assert keys.media_type_of("a/b.html") == "application/octet-stream"
