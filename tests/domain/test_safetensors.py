"""Headers of safetensors files from strangers."""

from __future__ import annotations

import json
import struct
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from serve_app.domain import safetensors
from serve_app.domain.errors import WeightsUnavailable
from serve_app.domain.safetensors import SafetensorsHeader, TensorFacts

ONE: dict[str, Any] = {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}


def write_safetensors(path: Path, header: Any, body: bytes = b"\0" * 16) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)
    return path


def read_header(path: Path) -> SafetensorsHeader:
    return safetensors.read_header(path, path.name)


def test_names_types_and_shapes_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file(
        {"a.weight": np.zeros((2, 3), "float16"), "b": np.zeros(1)}, path, {"modelspec.x": "y"}
    )
    header = read_header(path)
    assert header.tensors == {
        "a.weight": TensorFacts("F16", (2, 3)),
        "b": TensorFacts("F64", (1,)),
    }
    places = sorted((tensor.begin, tensor.size) for tensor in header.tensors.values())
    assert places[-1] == (path.stat().st_size - places[-1][1], places[-1][1])
    assert header.metadata == {"modelspec.x": "y"}


@pytest.mark.parametrize(
    ("header", "why"),
    [
        ({"a": {**ONE, "data_offsets": [0, 12]}}, "does not take"),
        ({"a": ONE, "b": {**ONE, "data_offsets": [8, 24]}}, "overlaps"),
        ({"a": {**ONE, "data_offsets": [4, 20]}}, "gap"),
        ({"a": {**ONE, "dtype": "PICKLE"}}, "PICKLE"),
        ({"a": {**ONE, "shape": [-2, -2]}}, "impossible"),
        ({"a": {**ONE, "shape": [True, 4]}}, "impossible"),
        ({"a": {**ONE, "shape": [1] * 9}}, "impossible"),
        ({"a": {"dtype": "F32"}}, "lacks"),
        ({}, "no tensors"),
        ({"a": ONE, "__metadata__": {"x": 1}}, "__metadata__"),
        ({"a" * 600: ONE}, "characters"),
        (b'{"a": 1, "a": 2}', "twice"),
        (b"{" + b"[" * 5000, "not JSON"),
        (b"{\xff", "not JSON"),
        ({"a": 1}, "lacks"),
        ({"a": {**ONE, "data_offsets": [0, 16, 17]}}, "lacks"),
        ({"a": {**ONE, "shape": [2.0, 2]}}, "impossible"),
        ({"a": {**ONE, "shape": [2**62, 2**62]}}, "does not take"),
        ({"a": {**ONE, "data_offsets": [-16, 0]}}, "impossible"),
        ({"a": ONE, "b": {**ONE, "data_offsets": [32, 48]}}, "gap"),
    ],
)
def test_an_inconsistent_header_is_refused_with_the_reason(
    tmp_path: Path, header: Any, why: str
) -> None:
    with pytest.raises(WeightsUnavailable, match=why):
        read_header(write_safetensors(tmp_path / "a.safetensors", header))


@pytest.mark.parametrize("size", [15, 17])
def test_a_file_of_another_size_than_its_tensors_is_refused(tmp_path: Path, size: int) -> None:
    with pytest.raises(WeightsUnavailable, match=rf"a\.safetensors cannot .* {size} follow"):
        read_header(write_safetensors(tmp_path / "a.safetensors", {"a": ONE}, bytes(size)))


@pytest.mark.parametrize(
    "content",
    [b"", b"\x80\x04K", b"PK\x03\x04" * 10, b"\xff" * 8 + b"{}", b"\2" + bytes(7) + b"[]"],
)
def test_other_and_truncated_files_are_named_as_such(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    with pytest.raises(WeightsUnavailable, match="not a safetensors file"):
        read_header(path)


def test_a_long_header_is_refused_before_it_is_parsed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(safetensors, "MAX_HEADER_BYTES", 50)
    with pytest.raises(WeightsUnavailable, match="50 are allowed"):
        read_header(write_safetensors(tmp_path / "a.safetensors", {"a": ONE}))


def test_too_many_tensors_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(safetensors, "MAX_TENSORS", 1)
    empty = {"dtype": "F32", "shape": [0], "data_offsets": [16, 16]}
    with pytest.raises(WeightsUnavailable, match="2 tensors"):
        read_header(write_safetensors(tmp_path / "a.safetensors", {"a": ONE, "b": empty}))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(at=st.integers(0, 90), value=st.integers(0, 255), cut=st.integers(0, 110))
def test_a_damaged_file_is_read_or_refused_and_nothing_else(
    tmp_path: Path, at: int, value: int, cut: int
) -> None:
    path = write_safetensors(tmp_path / "a.safetensors", {"a": ONE, "__metadata__": {"k": "v"}})
    content = bytearray(path.read_bytes())
    content[at % len(content)] = value
    path.write_bytes(content[: max(cut, 1)])
    with suppress(WeightsUnavailable):
        read_header(path)
