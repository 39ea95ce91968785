"""Any content of a client's frame becomes an input of JSON values, or an error with a message."""

from __future__ import annotations

import json
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.domain.artifact import Artifact
from serve_app.domain.errors import InvalidInput, TooLarge
from serve_app.domain.outcome import Outcome
from serve_app.ingress.realtime.codec import pack, render_output, unpack
from serve_app.ingress.realtime.messages import MessageInbox, ReceivedFrame

LARGEST = 1 << 16

LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=20)
    | st.binary(max_size=20)
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(max_size=5) | st.integers(0, 9), inner, max_size=4)
    ),
    max_leaves=20,
)


def understood(message: bytes) -> dict[str, Any] | None:
    """Decoded input; None if it is refused with a message."""
    refusal: InvalidInput | None = None
    try:
        return unpack(message, LARGEST)
    except InvalidInput as error:
        refusal = error
    assert refusal.message
    assert refusal.problems
    return None


@given(st.binary(max_size=200))
def test_any_bytes_are_an_input_or_refused(message: bytes) -> None:
    if (body := understood(message)) is not None:
        json.dumps(body, allow_nan=False)


@given(VALUES)
def test_any_value_is_an_input_or_refused(value: Any) -> None:
    if (body := understood(msgpack.packb(value))) is not None:
        json.dumps(body, allow_nan=False)


@given(st.dictionaries(st.text(alphabet="abc"), st.text(alphabet="xyz") | st.integers(0, 9)))
def test_a_json_input_comes_through_as_it_is(body: dict[str, Any]) -> None:
    assert understood(msgpack.packb(body)) == body
    assert msgpack.unpackb(pack(body)) == body


@given(
    depth=st.integers(0, 2000),
    opener=st.sampled_from([b"\x91", b"\x81\xa1a"]),
)
def test_no_depth_is_too_much_to_be_answered(depth: int, opener: bytes) -> None:
    body = understood(b"\x81\xa1a" + opener * depth + b"\x01")
    assert (body is not None) == (depth < 32)


@pytest.mark.parametrize(
    ("message", "why"), [(b"\xc1", "it is not msgpack"), (b"\x91" * 2000, "nested too deeply")]
)
def test_a_frame_that_cannot_be_decoded_is_refused_with_the_reason(
    message: bytes, why: str
) -> None:
    with pytest.raises(InvalidInput, match=why):
        unpack(message, LARGEST)


def test_a_frame_that_is_too_large_is_refused_before_it_is_read() -> None:
    with pytest.raises(TooLarge, match="101 bytes; the limit is 100"):
        unpack(b"\x00" * 101, 100)


@pytest.mark.parametrize(
    "value",
    [
        [[]] * 30_000,
        [None] * 30_000,
        {str(number): 0 for number in range(30_000)},
        [[0] * 999] * 25,
    ],
)
def test_a_frame_of_too_many_values_is_refused_before_they_are_looked_at(value: Any) -> None:
    with pytest.raises((TooLarge, InvalidInput), match=r"more than 20000 values|exceeds"):
        unpack(msgpack.packb({"x": value}), 1 << 20)


def test_a_frame_may_have_thousands_of_values() -> None:
    points = [[number, 0.5] for number in range(5000)]
    assert unpack(msgpack.packb({"points": points}), 1 << 20) == {"points": points}


def test_a_header_that_promises_gigabytes_costs_nothing() -> None:
    for head in (b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff"):
        assert understood(b"\x81\xa1a" + head) is None


def test_images_go_into_the_output_in_place_of_their_names() -> None:
    artifact = Artifact("k", "image/png", 3, "", 8, 8)
    output = {
        "images": [{"artifact": "k", "width": 8}],
        "more": {"content": "YWJj", "content_type": "image/jpeg"},
        "text": {"content": "YWJj", "content_type": "text/plain"},
        "words": {"content": "a café", "content_type": "image/png"},
    }
    outcome = Outcome(output, (artifact,))
    rendering = render_output(outcome, {"k": b"abc"}, inline=False)
    assert rendering["images"] == [{"content": b"abc", "content_type": "image/png", "width": 8}]
    assert rendering["more"]["content"] == b"abc", "families that write images as Base64"
    assert rendering["text"]["content"] == "YWJj"
    assert rendering["words"]["content"] == "a café"
    (image,) = render_output(outcome, {"k": b"abc"}, inline=True)["images"]
    assert image["url"] == "data:image/png;base64,YWJj"


@given(
    sizes=st.lists(st.integers(1, 50), min_size=1, max_size=30),
    most=st.integers(1, 5),
    most_bytes=st.integers(10, 100),
)
async def test_an_inbox_keeps_the_newest_within_its_bounds(
    sizes: list[int], most: int, most_bytes: int
) -> None:
    inbox, dropped = MessageInbox(most, most_bytes), 0
    frames = [ReceivedFrame(str(n), {}, {}, size) for n, size in enumerate(sizes)]
    for frame in frames:
        gone = inbox.put(frame)
        assert gone == frames[dropped : dropped + len(gone)], "the oldest go first"
        dropped += len(gone)
        assert 1 <= len(inbox) <= most
    left = [await inbox.take(1.0) for _ in range(len(inbox))]
    assert left == frames[dropped:]
    assert len(left) == 1 or sum(received.size for received in frames[dropped:]) <= most_bytes
    assert await inbox.take(0.001) is None
