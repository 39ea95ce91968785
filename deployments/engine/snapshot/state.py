"""State of a suspended generation as JSON and tensors, and back into one at the same call.

A resumed generation has run the same code up to the same call, so it has the same objects in the
same places: only their contents may differ. Contents are therefore written *into* the existing
objects where possible, and objects that share memory in one generation share it in the other.
Equal contents are never written: weights, and objects that callers passed to several generations.
"""

from __future__ import annotations

import enum
import re
import types
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

import numpy as np
import torch

from deployments.engine.merging.arguments import bytes_of

Tree = Any
"""JSON: plain values as they are; other values as an object whose one-letter key is the kind."""


_Set = set[Any] | frozenset[Any]


class OpaqueObject(Exception):
    """Object whose contents cannot be read. The message names its class."""


class MissingObject(Exception):
    """Object in the generation that does not match the snapshot's entry for its place."""


class StateEncoder:
    """Encoder of objects. ``tensors`` holds copies on the CPU, by name."""

    def __init__(self) -> None:
        self.tensors: dict[str, torch.Tensor] = {}
        self._names: dict[tuple[Any, ...], str] = {}
        self._numbers: dict[int, int] = {}  # numbers of mutable objects, by id
        self._alive: list[Any] = []  # keeps objects alive so that ids and addresses are not reused

    def pack(self, value: Any) -> Tree:  # noqa: PLR0911 - a line for each kind
        """Encode ``value``. Raises ``OpaqueObject`` for an object that cannot be read."""
        if type(value) in _JSON:
            return value
        if isinstance(value, torch.Tensor):
            return self._tensor(value)
        if isinstance(value, torch.Generator):
            return {"g": self._store(value.get_state())}
        if isinstance(value, np.ndarray | np.generic):
            return self._array(value)
        if _is_constant(value):
            return {"k": _name(value)}
        if isinstance(value, tuple):
            return {"u": [self.pack(item) for item in value]}
        if id(value) in self._numbers:
            return {"s": self._numbers[id(value)]}
        number = self._numbers[id(value)] = len(self._numbers)
        self._alive.append(value)
        return {**self._container(value), "i": number}

    def _container(self, value: Any) -> Tree:
        if isinstance(value, Mapping):
            return {"d": [[_key(key), self.pack(item)] for key, item in value.items()]}
        if isinstance(value, list):
            return {"l": [self.pack(item) for item in value]}
        if type(value) in _SETS.values():
            return {"m": _members(value), "of": type(value).__name__}
        if not _is_plain_object(value):
            raise OpaqueObject(_name(value))
        has = {name: attribute for name, attribute in vars(value).items() if name not in _CONSTANT}
        return {
            "o": _name(value),
            "v": [[name, self.pack(attribute)] for name, attribute in has.items()],
        }

    def _tensor(self, value: torch.Tensor) -> Tree:
        if isinstance(value, torch.nn.Parameter):
            return {"k": _name(value)}
        if value.layout is not torch.strided or value.is_quantized:
            raise OpaqueObject(f"a tensor of layout {value.layout}")
        where = (value.data_ptr(), value.shape, value.stride(), value.dtype, value.device)
        self._alive.append(value)
        if where not in self._names or not value.numel():
            self._names[where] = self._store(_once(value.detach()))
        return {"t": self._names[where], "shape": list(value.shape), "on": value.device.type}

    def _array(self, value: Any) -> Tree:
        try:
            return {"n": self._store(torch.from_numpy(np.array(value)))}
        except TypeError as error:
            raise OpaqueObject(f"a numpy array of {value.dtype}") from error

    def _store(self, tensor: torch.Tensor) -> str:
        name = str(len(self.tensors))
        self.tensors[name] = tensor.to("cpu", copy=True).contiguous()
        return name


class StateDecoder:
    """Decoder. ``device``: for new tensors that were not on the CPU in the snapshot."""

    def __init__(self, tensors: Mapping[str, torch.Tensor], device: str) -> None:
        self._tensors = tensors
        self._device = device
        self._made: dict[tuple[str, tuple[int, ...]], torch.Tensor] = {}
        self._placed: dict[int, Any] = {}  # decoded objects by number

    def put(self, there: Any, tree: Tree) -> Any:
        """Return the object for the place of ``there``: ``there`` with new contents, or a new one.

        Raises ``MissingObject`` where ``there`` is of another kind.
        """
        if not isinstance(tree, dict):
            same = type(there) is type(tree) and repr(there) == repr(tree)  # also NaN, and -0.0
            return there if same else tree
        return self._placed[tree["s"]] if "s" in tree else self._thing(there, tree)

    def _thing(self, there: Any, tree: Tree) -> Any:  # noqa: PLR0911 - a line for each kind
        match tree:
            case {"t": name, "shape": shape, "on": kind}:
                device = "cpu" if kind == "cpu" else self._device
                return self._tensor(there, name, tuple(shape), device)
            case {"d": items, "i": number}:
                self._placed[number] = into = there if isinstance(there, Mapping) else {}
                return self._mapping(into, {_back(key): item for key, item in items})
            case {"l": items, "i": number}:
                self._placed[number] = into = there if isinstance(there, list) else []
                return self._list(into, items)
            case {"m": members, "of": kind, "i": number}:
                after = _SETS[kind](_back(member) for member in members)
                self._placed[number] = self._set(there, after)
                return self._placed[number]
            case {"u": items}:
                return self._tuple(there, items)
            case {"k": name} if name == _name(there):
                return there
            case {"o": name, "v": items, "i": number} if name == _name(there):
                self._placed[number] = there
                return self._attributes(there, dict(items))
            case {"g": name} if isinstance(there, torch.Generator):
                there.set_state(self._tensors[name])
                return there
            case {"n": name}:
                return self._array(there, self._tensors[name].numpy())
            case _:
                raise MissingObject(f"{_name(there)} instead of {_kind_name(tree)}")

    def _tensor(self, there: Any, name: str, shape: tuple[int, ...], device: str) -> torch.Tensor:
        saved = self._tensors[name].expand(shape)
        if (
            isinstance(there, torch.Tensor)
            and (there.shape, there.dtype) == (saved.shape, saved.dtype)
            and not there.is_inference()
        ):
            if not torch.equal(bytes_of(there), bytes_of(saved)):  # also NaNs
                _once(there.detach()).copy_(saved[_places_of_once(there)])
            return there
        if (name, shape) not in self._made:
            self._made[name, shape] = saved.to(device, copy=True)
        return self._made[name, shape]

    def _mapping(self, there: Any, items: Mapping[Any, Tree]) -> Any:
        if extra := there.keys() - items.keys():
            raise MissingObject(f"also {sorted(map(str, extra))}")
        for key, tree in items.items():
            before = there.get(key)
            after = self.put(before, tree)
            if after is not before or key not in there:
                there[key] = after
        return there

    def _list(self, there: list[Any], items: list[Tree]) -> list[Any]:
        padded = [*there, *[None] * len(items)]
        there[:] = [self.put(old, tree) for old, tree in zip(padded, items, strict=False)]
        return there

    def _set(self, there: Any, after: _Set) -> _Set:
        if type(there) is not type(after):
            return after
        if sorted(map(repr, there)) == sorted(map(repr, after)):  # 1, 1.0 and True are equal
            return there
        if not isinstance(there, set):
            return after
        there.clear()
        there.update(after)
        return there

    def _tuple(self, there: Any, items: list[Tree]) -> Any:
        if not isinstance(there, tuple) or len(there) != len(items):
            return tuple(self.put(None, item) for item in items)
        after = [self.put(old, tree) for old, tree in zip(there, items, strict=True)]
        if all(old is other for old, other in zip(there, after, strict=True)):
            return there
        return type(there)(*after) if hasattr(there, "_fields") else type(there)(after)

    def _attributes(self, there: Any, items: Mapping[str, Tree]) -> Any:
        own = vars(there)
        for name, tree in items.items():
            before = own.get(name)
            after = self.put(before, tree)
            if after is not before or name not in own:
                own[name] = after
        for name in own.keys() - items.keys() - _CONSTANT:
            raise MissingObject(f"also {name} of {_name(there)}")
        return there

    def _array(self, there: Any, array: Any) -> Any:
        if isinstance(there, np.ndarray) and (there.shape, there.dtype) == (
            array.shape,
            array.dtype,
        ):
            if there.tobytes() != array.tobytes():
                np.copyto(there, array)
            return there
        return array[()] if isinstance(there, np.generic) else array.copy()


def _once(tensor: torch.Tensor) -> torch.Tensor:
    """Drop the repetitions of an expanded tensor, which share memory and cannot be written to."""
    return tensor[_places_of_once(tensor)]


def _places_of_once(tensor: torch.Tensor) -> tuple[slice, ...]:
    return tuple(slice(0, 1) if stride == 0 else slice(None) for stride in tensor.stride())


def _is_constant(value: Any) -> bool:
    """Return whether calls do not change it, or change it independently of a denoiser's output."""
    return isinstance(value, _CONSTANTS) or type(value).__module__.startswith(_CONSTANT_MODULES)


def _is_plain_object(value: Any) -> bool:
    """Return whether its ``__dict__`` holds all its state: no C base classes and no slots."""
    kinds = type(value).__mro__[:-1]
    return hasattr(value, "__dict__") and all(
        kind.__flags__ & _HEAP_TYPE and not kind.__dict__.get("__slots__") for kind in kinds
    )


def _key(key: Any, kind: str = "a dictionary by") -> Tree:
    """Encode a key of a dictionary, or a member of a set, as JSON.

    Raises ``OpaqueObject`` unless it is text, a number or a tuple.
    """
    if type(key) in _JSON:
        return key
    if isinstance(key, tuple):
        return [_key(part, kind) for part in key]
    raise OpaqueObject(f"{kind} {_name(key)}")


def _members(value: _Set) -> list[Tree]:
    """Encode members in an order of their own: a set of texts has another one in each process."""
    return sorted((_key(item, "a set of") for item in value), key=repr)


def _back(key: Tree) -> Any:
    return tuple(_back(part) for part in key) if isinstance(key, list) else key


def _name(value: Any) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"


def _kind_name(tree: Tree) -> str:
    return str(next(iter(tree.values())) if tree.keys() & {"k", "o"} else "another kind of thing")


_HEAP_TYPE = 1 << 9  # CPython's Py_TPFLAGS_HEAPTYPE: created by a class statement
_SETS = {"set": set, "frozenset": frozenset}
_JSON = (type(None), bool, int, float, str)
_CONSTANT = frozenset({"_internal_dict"})  # configuration of a scheduler or a pipeline
_CONSTANTS = (
    torch.nn.Module,
    torch.dtype,
    torch.device,
    torch.Size,
    torch.layout,
    torch.memory_format,
    np.dtype,
    type,
    types.GenericAlias,  # type hints: inputs of modular blocks hold theirs
    types.UnionType,
    types.ModuleType,
    types.FunctionType,
    types.BuiltinFunctionType,
    types.MethodType,
    types.MethodWrapperType,
    range,
    slice,
    bytes,
    enum.Enum,
    re.Pattern,
    PurePath,
)
_CONSTANT_MODULES = (
    "deployments.engine.",
    "transformers.",
    "tokenizers",
    "tqdm.",
    "PIL.",
    "logging",
    "functools",
    "contextlib",
    "inspect",
    "typing",
    "diffusers.image_processor",
    "diffusers.pipelines.kolors.tokenizer",
    "diffusers.video_processor",
    # Noise tree by seed and requested times; a resumed run requests the same times.
    "torchsde.",
)
