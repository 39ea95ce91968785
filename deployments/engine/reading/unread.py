"""Weights that were not read yet, as tensors.

diffusers and transformers build a model and put its weights in place; they rename keys, choose
dtypes and tie weights. Here they do all of that with tensors that only know where their values are.
The values are then read straight to where the model runs, in the dtype that was chosen.
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from diffusers.models import model_loading_utils, modeling_utils
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only
from transformers import modeling_utils as transformers_utils

from deployments.engine.reading.headers import NAMES, Header, StoredTensor, UnknownDtype, WeightFile

_ATEN = torch.ops.aten
_SAME_MEMORY = (_ATEN.detach.default, _ATEN.alias.default)
_PARTS = (_ATEN.split.Tensor, _ATEN.split_with_sizes.default, _ATEN.slice.Tensor)
_CAST = _ATEN._to_copy.default  # noqa: SLF001
_FORMATS = (None, torch.preserve_format, torch.contiguous_format)


class WeightsNotRead(RuntimeError):
    """Code needs values of weights that were not read."""


class UnreadWeight(Tensor):
    """Contiguous tensor on the CPU without memory, of which only shape and dtype can be used.

    It can be cast, detached and made a parameter. Everything else raises ``WeightsNotRead``.
    """

    stored: StoredTensor
    casts: tuple[torch.dtype, ...]  # applied one after another to what is stored
    memory: object  # equal for tensors that will have the same memory

    @staticmethod
    def __new__(
        cls: type[UnreadWeight],
        stored: StoredTensor,
        casts: tuple[torch.dtype, ...] = (),
        memory: object | None = None,
    ) -> UnreadWeight:
        make: Any = Tensor._make_wrapper_subclass  # noqa: SLF001 torch documents it for subclasses
        weight = make(cls, stored.shape, dtype=casts[-1] if casts else stored.dtype, device="cpu")
        weight.stored, weight.casts, weight.memory = stored, casts, memory or object()
        return weight

    def __init__(
        self,
        stored: StoredTensor,
        casts: tuple[torch.dtype, ...] = (),
        memory: object | None = None,
    ) -> None:
        del stored, casts, memory
        super().__init__()

    def __repr__(self, **keywords: Any) -> str:
        return f"UnreadWeight({tuple(self.shape)}, {self.dtype}, {self.stored.file.path.name})"

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func == _SET_DATA and isinstance(args[1], UnreadWeight):
            # torch takes over the shape and dtype of the new data, but no attribute of Python.
            args[0].stored, args[0].casts = args[1].stored, args[1].casts
            args[0].memory = args[1].memory
        # Not torch's own way, which makes results of this class: values may be among them.
        with torch._C.DisableTorchFunctionSubclass():  # noqa: SLF001
            return func(*args, **kwargs or {})

    @classmethod
    def __torch_dispatch__(  # pyrefly: ignore[bad-override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        del types
        weight: UnreadWeight = next(
            leaf for leaf in tree_leaves(args) if isinstance(leaf, UnreadWeight)
        )
        gives_values = weight.stored.file.gives_values
        if gives_values and (rows := _rows(func, args, kwargs or {})) is not None:
            return rows
        if func in _SAME_MEMORY:
            return UnreadWeight(weight.stored, weight.casts, weight.memory)
        if func is _ATEN.clone.default and (kwargs or {}).get("memory_format") in _FORMATS:
            return UnreadWeight(weight.stored, weight.casts)
        if func is _CAST and _only_casts(kwargs or {}):
            dtype = (kwargs or {}).get("dtype") or weight.dtype
            casts = weight.casts if dtype == weight.dtype else (*weight.casts, dtype)
            return UnreadWeight(weight.stored, casts)
        if gives_values:
            return func(*_values_of(args), **_values_of(kwargs or {}))
        weight.stored.file.needed_by = str(func)
        raise WeightsNotRead(f"{func} needs the values of {weight.stored.file.path}.")


_SET_DATA = Tensor.data.__set__  # pyrefly: ignore[missing-attribute]


def _only_casts(keywords: dict[str, Any]) -> bool:
    device = keywords.get("device")
    return (
        (device is None or torch.device(device).type == "cpu")
        and not keywords.get("pin_memory")
        and keywords.get("memory_format") in _FORMATS
    )


def _rows(func: Any, args: Any, keywords: dict[str, Any]) -> Any:
    """Weights that have only some rows of one, or one itself, if ``func`` gives that.

    The rows of a stored tensor lie together, so such a weight is a stored tensor too.
    """
    first = args[0]
    if func is _ATEN.cat.default and len(first) == 1:
        return UnreadWeight(first[0].stored, first[0].casts)
    if func not in _PARTS or keywords or not _is_divisible(first):
        return None
    total = first.shape[0] if first.dim() else 0
    match func, args[1:]:
        case _ATEN.split.Tensor, (int(size),) | (int(size), 0):
            sizes = [min(size, total - at) for at in range(0, total, size)]
        case _ATEN.split_with_sizes.default, (list(sizes),) | (list(sizes), 0) if (
            sum(sizes) == total
        ):
            pass
        case _ATEN.slice.Tensor, (0, int() | None as begin, int() | None as end) if total:
            begin, end, _ = slice(begin, end).indices(total)
            return _rows_of(first, begin, max(begin, end))
        case _ATEN.slice.Tensor, (int(dim), 0, int(end)) if end >= first.shape[dim]:
            return UnreadWeight(first.stored, first.casts, first.memory)
        case _:
            return None
    ends = [*accumulate(sizes)]
    return [_rows_of(first, end - size, end) for size, end in zip(sizes, ends, strict=True)]


def _is_divisible(weight: Any) -> bool:
    """True if its rows can be read alone, as they are stored."""
    return isinstance(weight, UnreadWeight) and not weight.casts and weight.stored.has_whole_rows


def _rows_of(weight: UnreadWeight, begin: int, end: int) -> UnreadWeight:
    stored = weight.stored
    width = stored.size // stored.shape[0]
    part = replace(
        stored,
        begin=stored.begin + begin * width,
        size=(end - begin) * width,
        shape=(end - begin, *stored.shape[1:]),
    )
    return UnreadWeight(part)


def _values_of(tree: Any) -> Any:
    return tree_map_only(UnreadWeight, _read, tree)


def _read(weight: UnreadWeight) -> Tensor:
    values = weight.stored.file.values(weight.stored).view(weight.stored.shape)
    return cast_by(weight.casts, values)


def cast_by(dtypes: Iterable[torch.dtype], values: Tensor) -> Tensor:
    """Return ``values`` cast to each of ``dtypes``, one after another."""
    for dtype in dtypes:
        values = values.to(dtype)
    return values


@contextmanager
def giving_values(file: WeightFile) -> Generator[None]:
    """Let code that needs values of weights of ``file`` have them, in host memory."""
    file.gives_values = True
    try:
        yield
    finally:
        file.gives_values = False


class OpenedFiles:
    """Files of one pipeline, opened for reading later.

    ``usual``: folders whose files are read in the libraries' own way.
    """

    def __init__(self, folder: Path, usual: set[Path]) -> None:
        self._folder = folder
        self._usual = usual
        self._files: dict[Path, WeightFile] = {}
        self._headers: dict[Path, Header] = {}
        self._lock = threading.Lock()  # transformers opens files on several threads

    def open(self, path: Any) -> Header | None:
        """Return the header of a file; None if its library is to read it in its own way."""
        if not isinstance(path, str | Path) or not str(path).endswith(".safetensors"):
            return None
        file = Path(path)
        if not file.is_relative_to(self._folder) or file.parent in self._usual:
            return None
        with self._lock:
            try:
                if file not in self._files:
                    if _is_quantized(file.parent):
                        self._usual.add(file.parent)
                        return None
                    self._files[file] = opened = WeightFile(file)
                    self._headers[file] = opened.header()
                return self._headers[file]
            except UnknownDtype:
                self._usual.add(file.parent)
                return None

    def refused_folders(self) -> dict[Path, str]:
        """Folders whose weights were needed before they were read, and the operation."""
        return {path.parent: file.needed_by for path, file in self._files.items() if file.needed_by}


def _is_quantized(folder: Path) -> bool:
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and "quantization_config" in config


class _Slice:
    """Tensor of an opened file, as ``safetensors`` gives it to transformers."""

    def __init__(self, stored: StoredTensor) -> None:
        self._stored = stored

    def get_shape(self) -> list[int]:
        return [*self._stored.shape]

    def get_dtype(self) -> str:
        return NAMES[self._stored.dtype]

    def __getitem__(self, part: Any) -> Tensor:
        return UnreadWeight(self._stored)[part]


class _Opened:
    """Opened file, as ``safetensors.safe_open`` gives it to transformers."""

    def __init__(self, header: Header) -> None:
        self._header = header

    def __enter__(self) -> _Opened:
        return self

    def __exit__(self, *error: object) -> None:
        """Do nothing: the file stays open until its tensors are read."""

    def keys(self) -> list[str]:
        return [*self._header.tensors]

    def metadata(self) -> dict[str, str]:
        return dict(self._header.metadata)

    def get_tensor(self, name: str) -> Tensor:
        return UnreadWeight(self._header.tensors[name])

    def get_slice(self, name: str) -> _Slice:
        return _Slice(self._header.tensors[name])


@contextmanager
def placeholders(files: OpenedFiles) -> Generator[None]:
    """Let ``from_pretrained`` of diffusers and transformers put ``UnreadWeight``s into models.

    Files of other folders are read as usual. The caller must hold ``ONE_BUILDER``.
    """
    usual_load, usual_open = modeling_utils.load_state_dict, transformers_utils.safe_open

    def load_state_dict(checkpoint_file: Any, *arguments: Any, **keywords: Any) -> Any:
        if (opened := files.open(checkpoint_file)) is None:
            return usual_load(checkpoint_file, *arguments, **keywords)
        return {name: UnreadWeight(tensor) for name, tensor in opened.tensors.items()}

    def safe_open(filename: Any, *arguments: Any, **keywords: Any) -> Any:
        if (opened := files.open(filename)) is None:
            return usual_open(filename, *arguments, **keywords)
        return _Opened(opened)

    patched = (
        (modeling_utils, "load_state_dict", load_state_dict),
        (model_loading_utils, "load_state_dict", load_state_dict),
        (transformers_utils, "safe_open", safe_open),
    )
    with contextlib.ExitStack() as undo:
        for module, name, replacement in patched:
            undo.callback(setattr, module, name, getattr(module, name))
            setattr(module, name, replacement)
        yield


_LATER: ContextVar[bool] = ContextVar("read_weights_later", default=False)


@contextmanager
def reading_later() -> Generator[None]:
    """Let pipelines that this thread loads keep ``UnreadWeight``s, for ``Placement.apply``."""
    token = _LATER.set(True)
    try:
        yield
    finally:
        _LATER.reset(token)


def reads_later() -> bool:
    """Return whether this thread is inside ``reading_later``."""
    return _LATER.get()
