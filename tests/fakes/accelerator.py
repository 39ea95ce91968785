"""A device whose copies take place when somebody waits for them, so that a missing wait shows.

It computes on the CPU. What has not been waited for holds other values than those that were copied,
memory can be refused at a chosen point, and page-locked bytes are counted. With a ``SmallDevice``,
what is copied to the device takes memory there, in the stream that it came by.
"""

import threading
from contextlib import contextmanager
from functools import partial

import torch

from deployments.engine.accelerator.cpu import HostTimeStamp, UnlimitedMemory
from deployments.engine.accelerator.interface import Capabilities, HostCopy
from deployments.engine.merging.arguments import tensors_in
from tests.fakes.small_device import COMPUTE, SmallDevice


class FakeStream:
    """Queue of copies, each done when a thread waits for it or for a later one."""

    def __init__(self, accelerator, name):
        self._accelerator = accelerator
        self._queue = []
        self._done = 0  # copies so far
        self._lock = threading.RLock()
        self.name = name

    @contextmanager
    def active(self):
        before = self._accelerator.current_stream
        self._accelerator.set_stream(self)
        try:
            yield
        finally:
            self._accelerator.set_stream(before)

    def put(self, work):
        with self._lock:
            self._queue.append(work)

    def record(self):
        self._accelerator.note(self.name, "record")
        return FakeEvent(self, self.last_copy_number())

    def synchronize(self):
        self._accelerator.note(self.name, "synchronize")
        self.do_up_to(self.last_copy_number())

    def last_copy_number(self):
        """Number of the last copy in the queue."""
        with self._lock:
            return self._done + len(self._queue)

    def do_up_to(self, number):
        with self._lock:
            while self._done < number:
                self._done += 1
                self._queue.pop(0)()


class FakeEvent:
    """Keeps no tensors, as a device's events."""

    def __init__(self, stream, number):
        self._stream = stream
        self._number = number

    def wait(self):
        self._stream._accelerator.note(self._stream.name, "wait")
        self._stream.do_up_to(self._number)


class FakeGraph:
    """Recorded work, which is done again for a replay."""

    def __init__(self, pool, compute, output):
        self.pool = pool
        self.compute = compute
        self.output = output
        self.dropped = False
        size = sum(tensor.nbytes for tensor in tensors_in(output))
        self.block = pool.accelerator.block(size, pool.stream)

    def replay(self):
        assert not self.dropped, "A graph was replayed that is gone."
        self.pool.accelerator.note(self.pool.accelerator.current_stream.name, "replay")
        self.pool.spoil()
        for target, value in zip(tensors_in(self.output), tensors_in(self.compute()), strict=True):
            target.copy_(value)


class FakeGraphPool:
    """Pool whose outputs hold wrong values before a replay, and after that of another graph."""

    def __init__(self, accelerator):
        self.accelerator = accelerator
        self.stream = f"graphs {id(self)}"
        self._graphs = []

    @property
    def size(self):
        return sum(tensor.nbytes for graph in self._graphs for tensor in tensors_in(graph.output))

    def record(self, compute):
        accelerator = self.accelerator
        accelerator.recordings += 1
        accelerator.note(accelerator.current_stream.name, "record graph")
        accelerator.broken = False
        output = compute()
        accelerator.while_recording()
        if accelerator.broken:
            raise RuntimeError("operation failed due to a previous error during capture")
        if accelerator.recording_refusal.get("number") == accelerator.recordings:
            raise accelerator.recording_refusal["error"]
        graph = FakeGraph(self, compute, output)
        self._graphs.append(graph)
        self.spoil()
        return graph, output

    def spoil(self):
        for graph in self._graphs:
            for tensor in tensors_in(graph.output):
                spoilt(tensor)

    def drop(self, graph):
        self._graphs.remove(graph)
        graph.dropped, graph.compute, graph.block = True, None, None

    def release(self):
        for graph in list(self._graphs):
            self.drop(graph)


class DeviceBytes(bytearray):
    """Memory of a tensor, which takes a block of the device as long as the tensor's storage is."""

    block = None


class FakeAccelerator:
    """``operations``: (stream, operation) in the order in which threads asked for them."""

    kind = "cpu"

    def __init__(self, memory=None, *, device="cpu", discrete=True, host_bytes=None):
        """``host_bytes``: how much of the host's memory may be page-locked; None: all."""
        self.device = device
        self.memory = memory or UnlimitedMemory()
        self.capabilities = Capabilities(
            discrete=discrete, channels_last=not discrete, collectives="gloo"
        )
        self.failed = False
        self.multiplied = {torch.int8, torch.float8_e4m3fn}
        self.operations = []
        self.pinned = {}  # bytes by address
        self.most_pinned = 0
        self.shared = []  # tensors that the compute stream may use
        self._host_bytes = host_bytes
        self._here = threading.local()
        self._compute = FakeStream(self, COMPUTE)
        self._streams = {}
        self._allocations = 0
        self._refusal = None
        self.recordings = 0
        self.recording_refusal = {}
        self.while_recording = lambda: None  # what other threads do meanwhile
        self.broken = False  # what is being recorded

    def synchronize(self):
        """Wait for the whole device, as compilers do. It breaks a recording on any thread."""
        self.note("device", "synchronize")
        self.broken = True

    def refuse(self, number, error=None):
        """Make the allocation with this number, from 1, counted from now, run out of memory."""
        self._allocations = 0
        self._refusal = number, error or torch.OutOfMemoryError("The fake refuses.")

    def refuse_recording(self, number, error=None):
        """Make the recording of a graph with this number, from 1, counted from now, fail."""
        self.recordings = 0
        error = error or RuntimeError("operation not permitted when stream is capturing")
        self.recording_refusal = {"number": number, "error": error}

    @property
    def pinned_bytes(self):
        return sum(self.pinned.values())

    @property
    def current_stream(self):
        return getattr(self._here, "stream", self._compute)

    def set_stream(self, stream):
        self._here.stream = stream

    def note(self, stream, what):
        self.operations.append((stream, what))

    def model_name(self):
        return "Fake"

    def driver(self):
        return "1.0"

    def stream(self, name):
        return self._streams.setdefault(name, FakeStream(self, name))

    def allocate(self, like):
        self._allocations += 1
        if self._refusal is not None and self._allocations == self._refusal[0]:
            raise self._refusal[1]
        stream = self.current_stream.name
        self.note(stream, "allocate")
        size = like.numel() * like.element_size()
        if not size or not isinstance(self.memory, SmallDevice):
            return spoilt(torch.empty_like(like, device="cpu"))
        memory = DeviceBytes(size)
        memory.block = self.block(size, stream)
        flat = torch.frombuffer(memory, dtype=torch.uint8).view(like.dtype)
        strides = torch.empty_like(like, device="meta").stride()
        return spoilt(flat.as_strided(like.shape, strides))

    def block(self, size, stream):
        """Take memory, as long as the block is there, if it is counted."""
        return self.memory.allocate(size, stream) if isinstance(self.memory, SmallDevice) else None

    def copy(self, source, target):
        """Read the source only when the copy takes place, as a device does."""
        self.note(self.current_stream.name, "copy")
        self.current_stream.put(lambda: target.copy_(source))

    def share(self, tensor):
        self.shared.append(tensor.data_ptr())

    def to_device(self, tensor):
        """Copy at once in the compute stream, whose later work finds it there."""
        stream = self.current_stream
        self.note(stream.name, "copy to device")
        source, target = tensor.clone(), spoilt(torch.empty_like(tensor))
        if stream is self._compute:
            return target.copy_(source)
        stream.put(lambda: target.copy_(source))
        return target

    def to_host(self, tensor):
        if not self.capabilities.discrete or getattr(tensor, "on_host", False):
            return HostCopy(tensor, lambda: None)
        stream = self.current_stream
        self.note(stream.name, "copy to host")
        target = spoilt(torch.empty_like(tensor))
        target.on_host = True
        values = tensor.detach().clone()  # later work of the stream does not change what is copied
        stream.put(lambda: target.copy_(values))
        return HostCopy(target, stream.record().wait)

    def lockable_bytes(self):
        return None if self._host_bytes is None else self._host_bytes - self.pinned_bytes

    def page_lock(self, address, size):
        if self._host_bytes is not None and self.pinned_bytes + size > self._host_bytes:
            raise MemoryError("The fake's host has no more memory.")
        assert address not in self.pinned
        self.pinned[address] = size
        self.most_pinned = max(self.most_pinned, self.pinned_bytes)

    def is_page_locked(self, address):
        return address in self.pinned

    def page_unlock(self, address, *, wait):
        if wait:
            self.note("device", "synchronize")
        del self.pinned[address]

    def graph_pool(self):
        return FakeGraphPool(self)

    def has_failed(self):
        return self.failed

    def timestamps(self, monotonic):
        return partial(HostTimeStamp, monotonic)

    def generators(self):
        return [torch.default_generator]

    def weights_budget(self):
        return 2**40

    def multiplies(self, dtype):
        return dtype in self.multiplied

    def adapters_budget(self):
        return 2**30

    def dtype(self, preferred):
        return preferred


def spoilt(tensor):
    """Fill with values that no test makes."""
    tensor.view(torch.uint8).fill_(0x7F) if tensor.is_contiguous() and tensor.ndim else None
    return tensor
