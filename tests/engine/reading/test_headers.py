"""Headers of safetensors files: what is found, and what is refused."""

import json
import os

import pytest
import torch
from safetensors.torch import save_file

from deployments.engine.reading.headers import MAX_HEADER_BYTES, UnknownDtype, WeightFile
from serve_app.domain.errors import WeightsUnavailable

pytestmark = pytest.mark.engine


def entry(begin=0, end=8, shape=(2,), dtype="F32"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


def written(tmp_path, header, data=b"\0" * 8, length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    file = tmp_path / "model.safetensors"
    size = len(text) if length is None else length
    file.write_bytes(size.to_bytes(8, "little") + text + data)
    return file


def test_tensors_are_where_the_header_says(tmp_path):
    tensors = {"b": torch.rand(3, 5), "a": torch.ones(7, dtype=torch.bfloat16), "0": torch.empty(0)}
    save_file(tensors, tmp_path / "it.safetensors", {"format": "pt"})
    file = WeightFile(tmp_path / "it.safetensors").header()
    content = (tmp_path / "it.safetensors").read_bytes()
    assert file.metadata == {"format": "pt"}
    assert file.tensors.keys() == tensors.keys()
    for name, stored in file.tensors.items():
        expected = tensors[name]
        assert (stored.dtype, stored.shape) == (expected.dtype, tuple(expected.shape))
        data = expected.view(torch.uint8).numpy().tobytes() if expected.numel() else b""
        assert content[stored.begin : stored.begin + stored.size] == data


@pytest.mark.parametrize(
    ("header", "data", "why"),
    [
        (b"{", b"", "not JSON"),
        (b"[" * 100_000, b"", "not JSON"),
        (b"\xff\xfe", b"", "not JSON"),
        ([], b"", "not a JSON object"),
        ({"a": 1}, b"", "entry for 'a'"),
        ({"a": {"dtype": "F32", "shape": [2]}}, b"\0" * 8, "entry for 'a'"),
        ({"a": entry() | {"data_offsets": [0, 8, 9]}}, b"\0" * 8, "entry for 'a'"),
        ({"a": entry() | {"dtype": 7}}, b"\0" * 8, "entry for 'a'"),
        ({"a": entry(shape=[-2])}, b"\0" * 8, "shape of 'a'"),
        ({"a": entry(shape=[2.0])}, b"\0" * 8, "shape of 'a'"),
        ({"a": entry(shape=[2**62, 2**62])}, b"\0" * 8, "other bytes"),
        ({"a": entry(shape=[3])}, b"\0" * 8, "other bytes"),
        ({"a": entry(-8, 0)}, b"\0" * 8, "other bytes"),
        ({"a": entry(), "b": entry(4, 12)}, b"\0" * 12, "overlap or leave gaps"),
        ({"a": entry(), "b": entry(16, 24)}, b"\0" * 24, "overlap or leave gaps"),
        ({"a": entry()}, b"\0" * 4, "take"),
        ({"a": entry()}, b"\0" * 12, "take"),
    ],
)
def test_a_header_that_contradicts_itself_is_refused_with_the_reason(tmp_path, header, data, why):
    with pytest.raises(WeightsUnavailable, match=why) as refusal:
        WeightFile(written(tmp_path, header, data)).header()
    assert "cannot be loaded" in str(refusal.value)
    assert "Download it again" in str(refusal.value)


@pytest.mark.parametrize("length", [0, 100, 2**63, MAX_HEADER_BYTES + 1])
def test_a_header_of_a_wrong_length_is_refused_and_not_read(tmp_path, length):
    with pytest.raises(WeightsUnavailable, match=r"cut off|not JSON"):
        WeightFile(written(tmp_path, {"a": entry()}, length=length)).header()


def test_an_unknown_dtype_is_left_to_the_library(tmp_path):
    with pytest.raises(UnknownDtype):
        WeightFile(written(tmp_path, {"a": entry(dtype="F4")})).header()


def test_a_file_that_is_not_there_is_refused_with_its_name(tmp_path):
    with pytest.raises(WeightsUnavailable, match=r"nothing\.safetensors cannot be loaded"):
        WeightFile(tmp_path / "nothing.safetensors")


def test_a_file_is_closed_when_nothing_needs_it(tmp_path):
    file = WeightFile(written(tmp_path, {"a": entry()}))
    opened, header = file._cached, file.header()
    del file
    os.fstat(opened)
    del header
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(opened)
