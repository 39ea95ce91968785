"""Forms with any content."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import Request as HttpRequest

from serve_app.domain.errors import InvalidInput, TooLarge
from serve_app.ingress.http.body import Form, read_form

names = st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1, max_size=8)
files = st.lists(st.tuples(names, st.binary(max_size=64)), max_size=4)
texts = st.dictionaries(names, names, max_size=4)


def read(body: bytes, content_type: str, most_files: int = 4) -> Form:
    async def receive() -> Any:
        return {"type": "http.request", "body": body, "more_body": False}

    scope = {"type": "http", "headers": [(b"content-type", content_type.encode())]}
    return asyncio.run(read_form(HttpRequest(scope, receive), 2048, most_files))


def part(name: str, content: bytes, filename: str | None = None) -> bytes:
    file = f'; filename="{filename}"' if filename else ""
    head = f'--x\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n'
    return head.encode() + content + b"\r\n"


@given(st.binary(max_size=512), st.sampled_from(["x", "", "-", "x; charset=y"]))
def test_any_bytes_are_a_form_or_refused(body: bytes, boundary: str) -> None:
    with contextlib.suppress(InvalidInput):
        read(body, f"multipart/form-data; boundary={boundary}")


@given(files, texts)
def test_what_was_sent_arrives(sent: list[tuple[str, bytes]], fields: dict[str, str]) -> None:
    body = b"".join(part(f"{name}[]", content, "a.png") for name, content in sent)
    body += b"".join(part(name, value.encode()) for name, value in fields.items()) + b"--x--"
    form = read(body, "multipart/form-data; boundary=x")
    assert form.texts == fields
    arrived = [(name, file.content) for name, uploads in form.files.items() for file in uploads]
    assert sorted(arrived) == sorted(sent)


@given(st.integers(2049, 4096))
def test_too_large_a_form_is_refused(size: int) -> None:
    with pytest.raises(TooLarge):
        read(part("a", b"x" * size, "a"), "multipart/form-data; boundary=x")


@pytest.mark.parametrize("body", [part("prompt", b"a\0b"), part("a\0b", b"a fox")])
def test_a_null_character_is_refused_and_its_field_named(body: bytes) -> None:
    with pytest.raises(InvalidInput, match="should not contain NUL"):
        read(body + b"--x--", "multipart/form-data; boundary=x")


NOT_UTF8 = b"\x89PNG\0\xff"


@pytest.mark.parametrize(
    ("head", "name"),
    [
        ("; filename*=UTF-8''gr%C3%B6%C3%9Fe%20x.png", "größe x.png"),
        ("; filename=\"a.png\"; filename*=UTF-8''gr%C3%B6%C3%9Fe.png", "größe.png"),
        ('; filename="größe 日本.png"', "größe 日本.png"),
        ('; filename=""', "image"),
        ("\r\nContent-Type: image/png", "image"),
        ("\r\nContent-Type: application/octet-stream", "image"),
    ],
)
def test_a_file_arrives_with_its_name_in_any_letters_or_with_none(head: str, name: str) -> None:
    start = f'--x\r\nContent-Disposition: form-data; name="image"{head}\r\n\r\n'
    form = read(start.encode() + NOT_UTF8 + b"\r\n--x--", "multipart/form-data; boundary=x")
    (file,) = form.files["image"]
    assert (file.name, file.content) == (name, NOT_UTF8)


def test_a_file_that_is_sent_as_a_text_is_refused_with_what_it_needs() -> None:
    with pytest.raises(InvalidInput, match=r"image: .*A file needs a `filename`"):
        read(part("image", NOT_UTF8) + b"--x--", "multipart/form-data; boundary=x")


def test_a_text_with_a_type_of_texts_stays_a_text() -> None:
    start = b'--x\r\nContent-Disposition: form-data; name="prompt"\r\n'
    body = start + b"Content-Type: text/plain; charset=utf-8\r\n\r\na fox\r\n--x--"
    assert read(body, "multipart/form-data; boundary=x").texts == {"prompt": "a fox"}
