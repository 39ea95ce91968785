"""Headers of GGUF files from strangers."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.domain.errors import WeightsUnavailable
from serve_app.domain.gguf import QUANTIZED, TYPES, GgufTensor, read_gguf
from tests.gguf_files import random_blocks, write_stored

UINT32, TEXT, LIST = 4, 8, 9
Q4_0, Q4_K = 2, 12


def read(content: bytes) -> Any:
    return read_gguf(io.BytesIO(content), "odd.gguf", len(content))


def text(words: str | bytes) -> bytes:
    content = words.encode() if isinstance(words, str) else words
    return struct.pack("<Q", len(content)) + content


def entry(key: str, kind: int, value: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + value


def record(name: str = "a", shape: tuple[int, ...] = (8,), kind: int = 0, at: int = 0) -> bytes:
    sizes = struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
    return text(name) + sizes + struct.pack("<IQ", kind, at)


def file(
    *records: bytes,
    entries: tuple[bytes, ...] = (),
    version: int = 3,
    counts: tuple[int, int] | None = None,
    content: int = 32,
) -> bytes:
    tensors, metadata = counts or (len(records), len(entries))
    header = b"GGUF" + struct.pack("<IQQ", version, tensors, metadata)
    header += b"".join((*entries, *records))
    return header + bytes(-len(header) % 32 + content)


def test_types_have_the_numbers_and_sizes_of_the_gguf_package() -> None:
    for number, tensor_type in TYPES.items():
        kind = gguf.GGMLQuantizationType(number)
        assert (kind.name, *gguf.GGML_QUANT_SIZES[kind]) == (
            tensor_type.name,
            tensor_type.values,
            tensor_type.size,
        )


def test_types_that_are_not_read_cannot_be_dequantized() -> None:
    for kind in gguf.GGMLQuantizationType:
        if kind not in TYPES:
            block = np.zeros((1, gguf.GGML_QUANT_SIZES[kind][1]), np.uint8)
            with pytest.raises(NotImplementedError):
                gguf.dequantize(block, kind)


@pytest.mark.parametrize("kind", QUANTIZED)
def test_every_quantized_type_can_be_dequantized(kind: str) -> None:
    blocks = random_blocks(kind, 1, 1)
    assert np.isfinite(gguf.dequantize(blocks, gguf.GGMLQuantizationType[kind])).all()


def test_names_types_shapes_and_places_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    kinds = gguf.GGMLQuantizationType
    blocks, plain = random_blocks("Q4_K", 3, 2), np.zeros((5, 2, 3), np.float16)
    tensors = {
        "a.weight": (blocks, kinds.Q4_K),
        "b": (plain, kinds.F16),
        "c": (random_blocks("Q4_0", 3, 3), kinds.Q4_0),
    }
    write_stored(path, tensors, {"c": (8, 4, 3, 3)})
    with path.open("rb") as opened:
        read_tensors = read_gguf(opened, "a.gguf", path.stat().st_size)
    assert {name: (tensor.dtype, tensor.shape) for name, tensor in read_tensors.items()} == {
        "a.weight": ("Q4_K", (3, 512)),
        "b": ("F16", (5, 2, 3)),
        "c": ("Q4_0", (8, 4, 3, 3)),
    }
    content = path.read_bytes()
    for name, (data, _) in tensors.items():
        place = read_tensors[name]
        assert content[place.begin : place.begin + place.size] == data.tobytes()


def test_an_alignment_other_than_the_usual_is_followed() -> None:
    aligned = entry("general.alignment", UINT32, struct.pack("<I", 256))
    content = file(record(), entries=(aligned,), content=512)
    assert read(content) == {"a": GgufTensor(TYPES[0], (8,), 256)}


HOSTILE = {
    "2^63 tensors": file(record(), counts=(2**63, 0)),
    "no tensors": file(),
    "2^63 entries of metadata": file(record(), counts=(1, 2**63)),
    "a key of 2^63 bytes": file(struct.pack("<Q", 2**63), counts=(1, 1)),
    "a text of 2^63 bytes": file(entry("x", TEXT, struct.pack("<Q", 2**63)), counts=(1, 1)),
    "a list of 2^63 numbers": file(entry("x", LIST, struct.pack("<IQ", 12, 2**63)), counts=(1, 1)),
    "a list of 2^64 - 1 texts": file(
        entry("x", LIST, struct.pack("<IQ", TEXT, 2**64 - 1)), counts=(1, 1)
    ),
    "a list of lists": file(entry("x", LIST, struct.pack("<IQ", LIST, 1)), counts=(1, 1)),
    "metadata of an unknown type": file(entry("x", 99, b""), counts=(1, 1)),
    "a name of 2^63 bytes": file(struct.pack("<Q", 2**63), counts=(1, 0)),
    "a long name": file(record("x" * 501)),
    "a name that is not UTF-8": file(text(b"\xff") + record()[9:]),
    "a name twice": file(record(), record(at=32), content=64),
    "many dimensions": file(record(shape=(1,) * 9)),
    "2^32 - 1 dimensions": file(text("a") + struct.pack("<I", 2**32 - 1), counts=(1, 0)),
    "a size of 2^64 - 1": file(record(shape=(2**64 - 1,))),
    "sizes that overflow": file(record(shape=(2**62, 2**62, 2**62))),
    "a size of none": file(record(shape=(0, 2**62))),
    "an unknown type": file(record(kind=9999)),
    "rows that end inside a block": file(record(shape=(48, 2), kind=Q4_0), content=54),
    "a scalar of blocks": file(record(shape=(), kind=Q4_K), content=144),
    "behind its end": file(record(at=2**40)),
    "an offset that overflows": file(record(at=2**64 - 32)),
    "not aligned": file(record(at=4), content=64),
    "overlapping": file(record(), record("b"), content=64),
    "an alignment of none": file(record(), entries=(entry("general.alignment", UINT32, bytes(4)),)),
    "an alignment of words": file(
        record(), entries=(entry("general.alignment", TEXT, text("32")),)
    ),
    "another original shape": file(
        record(),
        entries=(entry("comfy.gguf.orig_shape.a", LIST, struct.pack("<IQ2i", 5, 2, 3, 3)),),
    ),
    "an original shape of words": file(
        record(), entries=(entry("comfy.gguf.orig_shape.a", TEXT, text("8")),)
    ),
    "the first version": file(record(), version=1),
    "big-endian": file(record(), version=3 << 24),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_file_that_lies_about_itself_is_refused_by_its_name(what: str) -> None:
    with pytest.raises(WeightsUnavailable, match=r"^odd\.gguf cannot be loaded: ") as caught:
        read(HOSTILE[what])
    assert len(str(caught.value)) < 400


def test_a_file_that_is_cut_off_anywhere_is_refused() -> None:
    whole = file(record(), entries=(entry("general.name", TEXT, text("x")),))
    assert read(whole)
    for size in range(len(whole)):
        with pytest.raises(WeightsUnavailable, match=r"^odd\.gguf cannot be loaded: "):
            read(whole[:size])


def test_a_header_beyond_the_limit_is_refused_without_reading_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("serve_app.domain.gguf.MAX_HEADER_BYTES", 100)
    words = entry("general.name", TEXT, text("x" * 100))
    content = io.BytesIO(file(record(), entries=(words,)))
    with pytest.raises(WeightsUnavailable, match="more than 100 bytes"):
        read_gguf(content, "odd.gguf", 10**9)
    assert content.tell() <= 100


@given(place=st.integers(0, 140), flipped=st.integers(1, 255))
def test_a_damaged_header_is_read_or_refused(place: int, flipped: int) -> None:
    metadata = (
        entry("general.alignment", UINT32, struct.pack("<I", 32)),
        entry("x", LIST, struct.pack("<IQ", TEXT, 2) + text("a") + text("b")),
    )
    content = bytearray(file(record(), record("b", at=32), entries=metadata, content=64))
    content[place] ^= flipped
    try:
        tensors = read(bytes(content))
    except WeightsUnavailable:
        return
    assert all(
        0 <= tensor.begin <= tensor.begin + tensor.size <= len(content)
        for tensor in tensors.values()
    )
