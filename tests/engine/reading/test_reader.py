"""Weights read straight to their places, on the host and on a device whose copies take time."""

import errno
import gc
import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from deployments.engine.accelerator.cpu import Cpu
from deployments.engine.reading import reader as reader_module
from deployments.engine.reading.headers import WeightFile
from deployments.engine.reading.reader import Home, WeightReader
from deployments.engine.reading.unread import UnreadWeight, WeightsNotRead
from serve_app.domain.errors import WeightsUnavailable
from tests.fakes.accelerator import FakeAccelerator

pytestmark = pytest.mark.engine

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.bool)
CASTS = {torch.float32: (torch.bfloat16,), torch.bfloat16: (torch.float32, torch.float8_e4m3fn)}


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    monkeypatch.setattr(reader_module, "PIECE_BYTES", 8192)


@pytest.fixture(params=["cached", "direct"])
def way(request, monkeypatch):
    """Through the page cache, or past it as if it had nothing."""
    monkeypatch.setattr(WeightFile, "_is_cached", lambda *_: request.param == "cached")
    return request.param


@pytest.fixture
def path(tmp_path):
    """A file of 90 KB in which values begin at odd bytes, as in files of old."""
    torch.manual_seed(0)
    tensors = {}
    for number in range(25):
        dtype = DTYPES[number % len(DTYPES)]
        values = torch.randn(17 * number) * 100
        tensors[f"{number:02}"] = values.to(dtype).view(17, number)
    tensors["large"] = torch.randn(70, 100)
    save_file(tensors, tmp_path / "it.safetensors")
    content = (tmp_path / "it.safetensors").read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.dumps(json.loads(content[8 : 8 + length])).encode()
    header += b" " * ((3 - len(header)) % 8)
    shifted = tmp_path / "odd.safetensors"
    shifted.write_bytes(len(header).to_bytes(8, "little") + header + content[8 + length :])
    return shifted


def module_of(file, *, cast=False):
    module = torch.nn.Module()
    for name, stored in file.header().tensors.items():
        weight = UnreadWeight(stored)
        for dtype in CASTS.get(stored.dtype, ()) if cast else ():
            weight = weight.to(dtype)
        if stored.dtype.is_floating_point and name != "large":
            module.register_parameter(f"p{name}", torch.nn.Parameter(weight, requires_grad=True))
        else:
            module.register_buffer(f"p{name}", weight)
    return module


def expected_of(path, *, cast=False):
    tensors = load_file(path)
    for name, values in tensors.items():
        for dtype in CASTS.get(values.dtype, ()) if cast else ():
            tensors[name] = tensors[name].to(dtype)
    return tensors


def assert_read(module, expected):
    for name, values in expected.items():
        it = getattr(module, f"p{name}")
        assert type(it) in (torch.Tensor, torch.nn.Parameter)
        assert (it.dtype, it.shape, it.stride()) == (values.dtype, values.shape, values.stride())
        assert torch.equal(it.reshape(-1).view(torch.uint8), values.reshape(-1).view(torch.uint8))


@pytest.mark.parametrize("cast", [False, True])
@pytest.mark.parametrize("home", [Home.HOST, Home.DEVICE, Home.LOCKED])
@pytest.mark.parametrize("make", [Cpu, FakeAccelerator])
def test_every_value_arrives_as_it_is_stored_or_cast(path, way, make, home, cast):
    module = module_of(WeightFile(path), cast=cast)
    WeightReader(make()).read([(module, home)])
    assert_read(module, expected_of(path, cast=cast))


def test_a_module_has_one_slab_on_the_device_and_the_compute_stream_may_use_it(path, way):
    accelerator, module = FakeAccelerator(), module_of(WeightFile(path))
    WeightReader(accelerator).read([(module, Home.DEVICE)])
    tensors = [*module.parameters(), *module.buffers()]
    slabs = {tensor.untyped_storage().data_ptr() for tensor in tensors if tensor.numel()}
    assert slabs == {*accelerator.shared}
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    assert size <= tensors[1].untyped_storage().nbytes() < size + 256 * len(tensors)
    assert {stream for stream, _ in accelerator.operations} == {"weights"}
    assert accelerator.operations[-1] == ("weights", "synchronize")


def test_the_buffers_stay_and_each_is_filled_again_only_after_the_device_has_read_it(path, way):
    accelerator = FakeAccelerator()
    reader = WeightReader(accelerator)
    for _ in range(2):
        module = module_of(WeightFile(path))
        reader.read([(module, Home.DEVICE)])
        assert_read(module, expected_of(path))
        assert len(accelerator.pinned) == reader_module.THREADS
    assert ("weights", "wait") in accelerator.operations
    del reader
    gc.collect()
    assert not accelerator.pinned


def test_tied_weights_are_read_once_and_stay_tied(path):
    file = WeightFile(path)
    module = torch.nn.Module()
    module.one = torch.nn.Parameter(UnreadWeight(file.header().tensors["large"]))
    module.two = module.one
    module.same_memory = torch.nn.Parameter(module.one.detach())
    read = WeightReader(Cpu()).read([(module, Home.HOST)])
    assert module.two is module.one
    assert module.same_memory is not module.one
    assert module.same_memory.data_ptr() == module.one.data_ptr()
    assert read == file.header().tensors["large"].size


def test_a_file_can_be_read_after_it_was_deleted(path, way):
    module, expected = module_of(WeightFile(path)), expected_of(path)
    path.unlink()
    WeightReader(Cpu()).read([(module, Home.HOST)])
    assert_read(module, expected)


def test_a_file_system_that_refuses_direct_reads_is_read_through_the_cache(path, monkeypatch):
    file = WeightFile(path)
    preadv, refused = os.preadv, []

    def refusing(opened, *rest):
        if opened == file._direct:
            refused.append(opened)
            raise OSError(errno.EINVAL, "Invalid argument")
        return preadv(opened, *rest)

    monkeypatch.setattr(WeightFile, "_is_cached", lambda *_: False)
    monkeypatch.setattr(os, "preadv", refusing)
    module = module_of(file)
    WeightReader(Cpu()).read([(module, Home.HOST)])
    assert_read(module, expected_of(path))
    assert refused or file._direct is None


def test_a_file_system_that_does_not_open_files_for_direct_reads_is_read_as_well(path, monkeypatch):
    usual = os.open

    def refusing(path, flags, *rest):
        if flags & os.O_DIRECT:
            raise OSError(errno.EINVAL, "Invalid argument")
        return usual(path, flags, *rest)

    monkeypatch.setattr(os, "open", refusing)
    module = module_of(WeightFile(path))
    WeightReader(Cpu()).read([(module, Home.HOST)])
    assert_read(module, expected_of(path))


def test_a_system_without_direct_reads_is_read_through_the_cache(path, monkeypatch):
    monkeypatch.delattr(os, "O_DIRECT", raising=False)  # as on macOS
    monkeypatch.delattr(os, "RWF_NOWAIT", raising=False)
    module = module_of(WeightFile(path))
    WeightReader(Cpu()).read([(module, Home.HOST)])
    assert_read(module, expected_of(path))


@pytest.mark.parametrize("home", [Home.HOST, Home.DEVICE])
def test_a_file_that_becomes_shorter_is_reported_and_changes_nothing(path, way, home):
    module = module_of(WeightFile(path))
    os.truncate(path, 20_000)
    with pytest.raises(WeightsUnavailable, match="shorter"):
        WeightReader(FakeAccelerator()).read([(module, home)])
    assert all(type(parameter) is UnreadWeight for parameter in module.parameters())


def test_what_did_not_fit_can_be_read_later(path):
    accelerator, module = FakeAccelerator(), module_of(WeightFile(path))
    accelerator.refuse(1)
    reader = WeightReader(accelerator)
    with pytest.raises(torch.OutOfMemoryError):
        reader.read([(module, Home.DEVICE)])
    reader.read([(module, Home.DEVICE)])
    assert_read(module, expected_of(path))


def test_progress_is_reported_as_bytes_are_read(path, way):
    file, reported = WeightFile(path), []
    read = WeightReader(Cpu()).read(
        [(module_of(file), Home.HOST)], lambda *progress: reported.append(progress)
    )
    in_all = sum(tensor.size for tensor in file.header().tensors.values())
    assert read == in_all
    assert len(reported) > 5
    assert reported == sorted(reported)
    assert reported[-1] == (in_all, in_all)


def test_a_load_ends_where_progress_raises(path):
    def stop(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        WeightReader(Cpu()).read([(module_of(WeightFile(path)), Home.HOST)], stop)


def test_values_that_were_not_read_cannot_be_used(path):
    weight = UnreadWeight(WeightFile(path).header().tensors["large"])
    for use in (
        lambda: weight + 1,
        lambda: weight[1:],
        lambda: weight.view(10, 700),
    ):
        with pytest.raises(WeightsNotRead):
            use()
    assert weight.to("cpu").dtype is weight.dtype
    assert "UnreadWeight" in repr(weight)


@pytest.fixture
def aligned_file(tmp_path):
    """A file as today's libraries write it, in which nothing has to be cast."""
    torch.manual_seed(0)
    save_file({f"{n}": torch.randn(9 * n, 100) for n in range(4)}, tmp_path / "aligned.safetensors")
    return tmp_path / "aligned.safetensors"


def mapped_files():
    """Addresses of this process's mapped files, by path."""
    ranges = {}
    for line in Path("/proc/self/maps").read_text(encoding="utf-8").splitlines():
        address, *_, path = line.split()
        begin, _, end = address.partition("-")
        ranges.setdefault(path, []).append(range(int(begin, 16), int(end, 16)))
    return ranges


def is_mapped(tensor, path):
    return any(tensor.data_ptr() in span for span in mapped_files().get(str(path), []))


def test_a_cpu_has_weights_that_are_not_cast_in_the_memory_of_their_file(aligned_file, way):
    module, expected = module_of(WeightFile(aligned_file)), expected_of(aligned_file)
    assert WeightReader(Cpu()).read([(module, Home.HOST)]) > 0
    assert_read(module, expected)
    weights = [parameter for parameter in module.parameters() if parameter.numel()]
    assert len(weights) == 3
    for weight in weights:
        assert is_mapped(weight, aligned_file)
        assert weight.untyped_storage().nbytes() == weight.nbytes  # a deep copy takes no more


def test_what_is_written_to_a_mapped_weight_changes_neither_the_file_nor_other_pipelines(
    aligned_file,
):
    modules = [module_of(WeightFile(aligned_file)) for _ in range(2)]
    before, expected = aligned_file.read_bytes(), expected_of(aligned_file)
    for module in modules:
        WeightReader(Cpu()).read([(module, Home.HOST)])
    with torch.no_grad():
        for module in modules[0].parameters():
            module.zero_()
    assert_read(modules[1], expected)
    assert aligned_file.read_bytes() == before


def test_weights_that_are_cast_or_not_aligned_or_for_a_device_have_memory_of_their_own(
    aligned_file, path
):
    for file, make, cast in (
        (aligned_file, Cpu, True),
        (path, Cpu, False),
        (aligned_file, FakeAccelerator, False),
    ):
        module = module_of(WeightFile(file), cast=cast)
        WeightReader(make()).read([(module, Home.HOST)])
        assert_read(module, expected_of(file, cast=cast))
        assert not any(
            is_mapped(parameter, file) for parameter in module.parameters() if parameter.numel()
        )


def test_a_file_that_becomes_shorter_before_it_is_mapped_is_reported(aligned_file):
    module = module_of(WeightFile(aligned_file))
    os.truncate(aligned_file, 5000)
    with pytest.raises(WeightsUnavailable, match="shorter"):
        WeightReader(Cpu()).read([(module, Home.HOST)])
