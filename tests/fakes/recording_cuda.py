# ruff: noqa: N802 - the names are those of torch
"""``torch.cuda`` as far as graphs are concerned, with what a failed recording leaves behind.

By torch's CUDAGraph.cpp and CUDAGeneratorImpl.cpp (2.9, and later ones without ``reset``):
``capture_end`` first ends the stream's recording, which raises if something has waited for the
device meanwhile; it tells the allocator and the device's generator only after that. Until a
recording of the generator ends well, draws and replays raise.
"""

from contextlib import contextmanager


class FakeGraph:
    def __init__(self, cuda):
        self._cuda = cuda
        self._pool = None
        self.ended = False

    def capture_begin(self, pool=None, capture_error_mode="global"):
        assert capture_error_mode == "thread_local"
        assert self._cuda.recording is None, "operation not permitted when stream is capturing"
        assert not self._cuda.open_pools & {pool}, "beginAllocateToPool: already recording to it"
        self._pool = pool
        self._cuda.recording = self
        self._cuda.open_pools.add(pool)
        self._cuda.generator_records = True

    def capture_end(self):
        cuda, cuda.recording = self._cuda, None
        if cuda.waited:
            cuda.waited = False
            raise RuntimeError("operation failed due to a previous error during capture")
        cuda.open_pools.discard(self._pool)
        cuda.generator_records = False
        self.ended = True

    def replay(self):
        assert self.ended, "Called CUDAGraph::replay without a preceding successful capture."
        self._cuda.draw()

    def reset(self):
        self.ended = False


class FakeCuda:
    """In the place of ``torch.cuda``, and of ``torch._C`` for what has no public name."""

    def __init__(self):
        self.recording = None
        self.waited = False
        self.open_pools = set()
        self.generator_records = False
        self._handles = 0

    def CUDAGraph(self):
        return FakeGraph(self)

    def Stream(self, device):
        return object()

    @contextmanager
    def stream(self, stream):
        yield

    def graph_pool_handle(self):
        self._handles += 1
        return 0, self._handles

    def current_device(self):
        return 0

    def empty_cache(self):
        assert self.recording is None

    def memory_snapshot(self, handle, *, include_traces):
        return []

    def synchronize(self, device=None):
        """Wait for the device, which breaks a recording."""
        if self.recording is not None:
            self.waited = True
            raise RuntimeError("operation not permitted when stream is capturing")

    def draw(self):
        """Draw a random number, as a replay does, too."""
        if self.generator_records and self.recording is None:
            raise RuntimeError("Offset increment outside graph capture encountered unexpectedly.")

    def _cuda_endAllocateToPool(self, index, handle):
        if handle not in self.open_pools:
            raise RuntimeError("endAllocatePool: not currently recording to mempool_id")
        self.open_pools.discard(handle)

    def _cuda_releasePool(self, index, handle):
        assert handle not in self.open_pools
