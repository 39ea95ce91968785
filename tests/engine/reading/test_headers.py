"""Opened files of weights."""

import json
import os

import pytest
import torch
from safetensors.torch import save_file

from deployments.engine.reading.headers import UnknownDtype, WeightFile
from serve_app.domain.errors import WeightsUnavailable

pytestmark = pytest.mark.engine


def write_file(tmp_path, dtype="F32", count=2):
    text = json.dumps({"a": {"dtype": dtype, "shape": [count], "data_offsets": [0, 8]}}).encode()
    file = tmp_path / "model.safetensors"
    file.write_bytes(len(text).to_bytes(8, "little") + text + b"\0" * 8)
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


def test_an_unknown_dtype_is_left_to_the_library(tmp_path):
    with pytest.raises(UnknownDtype):
        WeightFile(write_file(tmp_path, "F8_E8M0", 8)).header()


def test_a_file_may_have_no_tensors(tmp_path):
    save_file({}, tmp_path / "it.safetensors", {"format": "pt"})
    file = WeightFile(tmp_path / "it.safetensors").header()
    assert (file.tensors, file.metadata) == ({}, {"format": "pt"})


def test_a_file_that_is_not_there_is_refused_with_its_name(tmp_path):
    with pytest.raises(WeightsUnavailable, match=r"nothing\.safetensors cannot be loaded"):
        WeightFile(tmp_path / "nothing.safetensors")


def test_a_file_is_closed_when_nothing_needs_it(tmp_path):
    file = WeightFile(write_file(tmp_path))
    opened, header = file._cached, file.header()
    del file
    os.fstat(opened)
    del header
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(opened)
