"""Damaged variants of valid inputs. The same seed gives the same bytes everywhere."""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Callable, Sequence

MAX_BYTES = 256 * 1024
MAX_CHANGES = 8
_LENGTHS = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 2**63 - 1, 2**64 - 1)
_FORMATS = ("B", ">H", "<H", ">I", "<I", ">Q", "<Q")
_TEXTS = (
    b"\0", b"-1", b"1e999", b"NaN", b"null", b"[" * 2000, b'{"a":' * 2000, b"\\ud800", b"\xff\xfe",
    b"9" * 5000, b'""', b"{}", b"[]", b"true",
)  # fmt: skip

Change = Callable[[random.Random, bytearray], None]


def mutate(seed: str, samples: Sequence[bytes]) -> bytes:
    """Variant of one of ``samples``, chosen and changed by ``seed``."""
    chance = random.Random(seed)  # noqa: S311  repeatable, not secret
    body = bytearray(chance.choice(samples))
    changes = 1 if chance.random() < 0.5 else chance.randint(2, MAX_CHANGES)
    for _ in range(changes):
        if chance.random() < 0.05:
            _splice(chance, body, chance.choice(samples))
        else:
            chance.choice(_CHANGES)(chance, body)
    if chance.random() < 0.7:
        _repair(body)
    return bytes(body[:MAX_BYTES])


def _repair(body: bytearray) -> None:
    """Correct checksums and lengths around the damage, so that it is read beyond them."""
    if body.startswith(b"\x89PNG"):
        at = 8
        while at + 12 <= len(body):
            end = at + 8 + int.from_bytes(body[at : at + 4])
            if end + 4 > len(body):
                return
            body[end : end + 4] = zlib.crc32(body[at + 4 : end]).to_bytes(4)
            at = end + 4
    elif body[8:9] == b"{":  # safetensors
        body[:8] = (max(0, body.rfind(b"}") - 7)).to_bytes(8, "little")


def _place(chance: random.Random, body: bytearray) -> int:
    """Index in ``body``. Headers are short and decide most, so half of the places are there."""
    near = min(len(body), 512) if chance.random() < 0.5 else len(body)
    return chance.randrange(near) if near else 0


def _flip(chance: random.Random, body: bytearray) -> None:
    if body:
        body[_place(chance, body)] ^= 1 << chance.randrange(8)


def _replace(chance: random.Random, body: bytearray) -> None:
    if body:
        body[_place(chance, body)] = chance.randrange(256)


def _number(chance: random.Random, body: bytearray) -> None:
    """Write a number that lengths and sizes get wrong."""
    form = chance.choice(_FORMATS)
    size = struct.calcsize(form)
    at = _place(chance, body)
    value = chance.choice(_LENGTHS) & ((1 << (8 * size)) - 1)
    if chance.random() < 0.3:
        value = chance.getrandbits(8 * size)
    body[at : at + size] = struct.pack(form, value)


def _cut(chance: random.Random, body: bytearray) -> None:
    del body[_place(chance, body) :]


def _remove(chance: random.Random, body: bytearray) -> None:
    at = _place(chance, body)
    del body[at : at + chance.randint(1, 64)]


def _repeat(chance: random.Random, body: bytearray) -> None:
    at = _place(chance, body)
    part = body[at : at + chance.randint(1, 256)]
    body[at:at] = part * chance.randint(1, 16)


def _text(chance: random.Random, body: bytearray) -> None:
    at = _place(chance, body)
    body[at : at + chance.randint(0, 8)] = chance.choice(_TEXTS)


def _splice(chance: random.Random, body: bytearray, other: bytes) -> None:
    begin = chance.randrange(len(other) + 1)
    at = _place(chance, body)
    body[at:at] = other[begin : begin + chance.randint(1, 4096)]


_CHANGES: Sequence[Change] = (
    _flip, _flip, _replace, _number, _number, _cut, _remove, _repeat, _text,
)  # fmt: skip
