"""The bytes of tensors that are alive, counted where nothing else counts them."""

import weakref

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Live(TorchDispatchMode):
    """Counts the bytes of tensors that are alive; they may be on no device at all."""

    def __init__(self, without=()):
        """``without``: storages that are not counted, such as those of weights."""
        super().__init__()
        self.now = self.peak = 0
        self._left_out = list(without)
        self._counted = {tensor._cdata for tensor in self._left_out}

    def __torch_dispatch__(self, function, kinds, args=(), named=None):
        output = function(*args, **(named or {}))
        for tensor in tree_leaves(output):
            if isinstance(tensor, torch.Tensor):
                self._count(tensor.untyped_storage())
        return output

    def _count(self, storage):
        if storage._cdata in self._counted:
            return
        self._counted.add(storage._cdata)
        self.now += storage.nbytes()
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._gone, storage._cdata, storage.nbytes())

    def _gone(self, known, size):
        self._counted.discard(known)
        self.now -= size
