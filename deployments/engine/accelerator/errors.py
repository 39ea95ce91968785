"""Names of devices' errors: out of memory, and errors after which a device may not work."""

from __future__ import annotations

import re
from collections.abc import Iterator

import torch

_OUT_OF_MEMORY = re.compile(
    "DefaultCPUAllocator"  # a bare RuntimeError
    # Allocations outside of torch's allocator: events, streams, modules of kernels, pinned memory.
    "|(CUDA|HIP) (driver )?error: out of memory"
    "|(CUBLAS|HIPBLAS)_STATUS_ALLOC_FAILED"  # workspaces, and handles at the first call
    "|CUDNN_STATUS_ALLOC_FAILED"
    "|CUDNN_STATUS_INTERNAL_ERROR_(DEVICE|HOST)_ALLOCATION_FAILED"
)
"""Texts of errors that have no class of their own. cuDNN's "unable to find an engine to execute
this computation" is not one: it also says that a GPU or a dtype is not supported."""

_OF_DEVICES = re.compile("CUDA|CUBLAS|CUDNN|cuDNN|NCCL|HIP|MIOPEN|outside graph capture")


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether the device or the host had too little memory."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and bool(_OUT_OF_MEMORY.search(str(error)))


def concerns_device(error: BaseException) -> bool:
    """Return whether ``error``, or one that caused it, is of the device and not of the code.

    A GPU reports a failed kernel to whatever call comes later, and fails every call from then on.
    Other such errors, such as a launch with too many threads, leave it working:
    ``Accelerator.has_failed`` tells.
    """
    return any(_is_of_device(cause) for cause in _chain(error))


def _is_of_device(error: BaseException) -> bool:
    if is_out_of_memory(error):
        return False
    if isinstance(error, torch.AcceleratorError):
        return True
    return isinstance(error, RuntimeError) and bool(_OF_DEVICES.search(str(error)))


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen = set[int]()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__
