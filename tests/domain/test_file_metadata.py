"""Description of a generation, as it is written into a file."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.domain.media.file_metadata import MARK, MAX_BYTES, FileMetadata, find

VALUES = st.recursive(
    st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)
INPUTS = st.fixed_dictionaries(
    {"prompt": st.text()}, optional={"guidance_scale": st.floats(0, 20), "loras": VALUES}
)


def make_metadata(arguments: dict[str, Any], **more: Any) -> FileMetadata:
    return FileMetadata.of_input(arguments, endpoint="a/b", model="o/n@1", seed=7, **more)


@given(INPUTS, st.binary(), st.binary())
def test_what_is_written_is_found_among_any_other_bytes(
    input: dict[str, Any], before: bytes, after: bytes
) -> None:
    written = make_metadata(input, request_id="r", demo=True)
    assert find(before + written.text().encode("ascii") + after) == written


@given(st.text())
def test_what_is_written_means_nothing_in_xml(prompt: str) -> None:
    text = make_metadata({"prompt": prompt}).text()
    assert ElementTree.fromstring(f"<a>{text}</a>").text == text  # noqa: S314  our own


@pytest.mark.parametrize("seed", [0, None])
def test_the_seed_0_is_told_from_an_unknown_one(seed: int | None) -> None:
    written = FileMetadata.of_input({}, endpoint="a/b", model="", seed=seed)
    assert find(written.text().encode()) == written


def test_older_versions_left_out_the_seed_0() -> None:
    metadata = find(b'{"darkroom":1,"endpoint":"a/b"}')
    assert metadata is not None
    assert metadata.seed == 0


def test_secret_fields_are_named_only() -> None:
    arguments = {"prompt": "hush", "token": "hush", "steps": 4}
    metadata = make_metadata(arguments, secret={"prompt", "token"})
    assert "hush" not in metadata.text()
    assert (metadata.settings, metadata.left_out) == ({"steps": 4}, ("prompt", "token"))


@given(st.text(), st.integers(0))
def test_a_prompt_cannot_pretend_to_be_another_description(prompt: str, seed: int) -> None:
    pretended = FileMetadata("x/y", "", seed, prompt).text()
    written = make_metadata({"prompt": f"{prompt}{pretended}"})
    assert find(written.text().encode()) == written


@given(st.binary(max_size=200))
def test_damaged_bytes_are_no_description(junk: bytes) -> None:
    assert find(MARK + junk) is None


def test_the_search_goes_on_after_a_damaged_one() -> None:
    written = make_metadata({"prompt": "x"})
    assert find(MARK + b"oops" + written.text().encode()) == written


def test_urls_and_inlined_files_are_left_out_at_any_depth() -> None:
    secret = "https://store.example.org/x?signature=secret"
    metadata = make_metadata(
        {
            "prompt": "a link to https://example.org stays",
            "image_url": secret,
            "mask_url": "DATA:image/png;base64,AAAA",
            "loras": [{"path": secret, "scale": 0.5}, {"path": "owner/name", "scale": 1}],
            "images": [secret],
            "seed": None,
            "negative_prompt": None,
            "sync_mode": True,
        }
    )
    assert metadata.settings == {"loras": [{"scale": 0.5}, {"path": "owner/name", "scale": 1}]}
    assert metadata.prompt == "a link to https://example.org stays"
    assert metadata.left_out == ("image_url", "images", "loras", "mask_url")


@pytest.mark.parametrize("letter", ["x", "é", "🎈"])
def test_a_description_fits_into_every_format(letter: str) -> None:
    long = make_metadata({"prompt": letter * 100_000, "negative_prompt": "y" * 100_000})
    text = long.text()
    assert len(text) <= MAX_BYTES
    assert text.isascii()
    metadata = find(text.encode())
    assert metadata is not None
    assert (metadata.seed, metadata.endpoint, metadata.prompt[:9]) == (7, "a/b", letter * 9)
    settings_only = make_metadata({"prompt": letter, "negative_prompt": "y" * 100_000})
    short = replace(make_metadata({"prompt": letter}), left_out=("settings",))
    assert find(settings_only.text().encode()) == short
