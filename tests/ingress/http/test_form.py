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
def test_what_was_sent_arrives(sent: list[tuple[str, bytes]], said: dict[str, str]) -> None:
    body = b"".join(part(f"{name}[]", content, "a.png") for name, content in sent)
    body += b"".join(part(name, value.encode()) for name, value in said.items()) + b"--x--"
    form = read(body, "multipart/form-data; boundary=x")
    assert form.texts == said
    arrived = [(name, file.content) for name, each in form.files.items() for file in each]
    assert sorted(arrived) == sorted(sent)


@given(st.integers(2049, 4096))
def test_too_large_a_form_is_refused(size: int) -> None:
    with pytest.raises(TooLarge):
        read(part("a", b"x" * size, "a"), "multipart/form-data; boundary=x")


@pytest.mark.parametrize("body", [part("prompt", b"a\0b"), part("a\0b", b"a fox")])
def test_a_null_character_is_refused_and_its_field_named(body: bytes) -> None:
    with pytest.raises(InvalidInput, match="should not contain NUL"):
        read(body + b"--x--", "multipart/form-data; boundary=x")
