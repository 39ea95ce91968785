"""What a suspended generation has, as JSON and tensors, and back into one that came to its place.

A resumed generation has run the same code up to the same call, so it has the same things in the
same places: only their contents may differ. So contents are written *into* what is there, wherever
that is possible, and whatever shares memory in the one shares it in the other. What is equal
already is never written to: weights, and what callers gave to several generations.
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

from deployments.engine.content import bytes_of

Tree = Any
"""JSON: plain values as they are, everything else as an object whose one-letter key says what."""


class Opaque(Exception):
    """Something whose contents cannot be read. The message names its class."""


class Misplaced(Exception):
    """What is there is not what the snapshot has for that place."""


class Packing:
    """Takes things apart. ``tensors`` are copies on the CPU, by name."""

    def __init__(self) -> None:
        self.tensors: dict[str, torch.Tensor] = {}
        self._names: dict[tuple[Any, ...], str] = {}
        self._numbers: dict[int, int] = {}  # of what can be changed, by id
        self._alive: list[Any] = []  # so that ids and addresses stay theirs

    def pack(self, value: Any) -> Tree:  # noqa: PLR0911 - a line for each kind
        """``Opaque`` where there is something that cannot be read."""
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
            return {"u": [self.pack(each) for each in value]}
        if id(value) in self._numbers:
            return {"s": self._numbers[id(value)]}
        number = self._numbers[id(value)] = len(self._numbers)
        self._alive.append(value)
        return {**self._container(value), "i": number}

    def _container(self, value: Any) -> Tree:
        if isinstance(value, Mapping):
            return {"d": [[_key(key), self.pack(each)] for key, each in value.items()]}
        if isinstance(value, list):
            return {"l": [self.pack(each) for each in value]}
        if not _is_plain_object(value):
            raise Opaque(_name(value))
        has = {name: each for name, each in vars(value).items() if name not in _CONSTANT}
        return {"o": _name(value), "v": [[name, self.pack(each)] for name, each in has.items()]}

    def _tensor(self, value: torch.Tensor) -> Tree:
        if isinstance(value, torch.nn.Parameter):
            return {"k": _name(value)}
        if value.layout is not torch.strided or value.is_quantized:
            raise Opaque(f"a tensor of layout {value.layout}")
        where = (value.data_ptr(), value.shape, value.stride(), value.dtype, value.device)
        self._alive.append(value)
        if where not in self._names or not value.numel():
            self._names[where] = self._store(_once(value.detach()))
        return {"t": self._names[where], "shape": list(value.shape), "on": value.device.type}

    def _array(self, value: Any) -> Tree:
        try:
            return {"n": self._store(torch.from_numpy(np.array(value)))}
        except TypeError as error:
            raise Opaque(f"a numpy array of {value.dtype}") from error

    def _store(self, tensor: torch.Tensor) -> str:
        name = str(len(self.tensors))
        self.tensors[name] = tensor.to("cpu", copy=True).contiguous()
        return name


class Unpacking:
    """Puts things back. ``device``: for tensors that are not there yet, and were not on the CPU."""

    def __init__(self, tensors: Mapping[str, torch.Tensor], device: str) -> None:
        self._tensors = tensors
        self._device = device
        self._made: dict[tuple[str, tuple[int, ...]], torch.Tensor] = {}
        self._placed: dict[int, Any] = {}  # by number

    def put(self, there: Any, tree: Tree) -> Any:
        """What belongs in the place of ``there``: itself, with other contents, or something new.
        ``Misplaced`` where it is of another kind."""
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
                return self._mapping(into, {_back(key): each for key, each in items})
            case {"l": items, "i": number}:
                self._placed[number] = into = there if isinstance(there, list) else []
                return self._list(into, items)
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
                raise Misplaced(f"{_name(there)} where there was {_told(tree)}")

    def _tensor(self, there: Any, name: str, shape: tuple[int, ...], device: str) -> torch.Tensor:
        given = self._tensors[name].expand(shape)
        if (
            isinstance(there, torch.Tensor)
            and (there.shape, there.dtype) == (given.shape, given.dtype)
            and not there.is_inference()
        ):
            if not torch.equal(bytes_of(there), bytes_of(given)):  # also NaNs
                _once(there.detach()).copy_(given[_places_of_once(there)])
            return there
        if (name, shape) not in self._made:
            self._made[name, shape] = given.to(device, copy=True)
        return self._made[name, shape]

    def _mapping(self, there: Any, items: Mapping[Any, Tree]) -> Any:
        if extra := there.keys() - items.keys():
            raise Misplaced(f"also {sorted(map(str, extra))}")
        for key, tree in items.items():
            before = there.get(key)
            after = self.put(before, tree)
            if after is not before or key not in there:
                there[key] = after
        return there

    def _list(self, there: list[Any], items: list[Tree]) -> list[Any]:
        padded = [*there, *[None] * len(items)]
        there[:] = [self.put(each, tree) for each, tree in zip(padded, items, strict=False)]
        return there

    def _tuple(self, there: Any, items: list[Tree]) -> Any:
        if not isinstance(there, tuple) or len(there) != len(items):
            return tuple(self.put(None, each) for each in items)
        after = [self.put(each, tree) for each, tree in zip(there, items, strict=True)]
        if all(one is other for one, other in zip(there, after, strict=True)):
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
            raise Misplaced(f"also {name} of {_name(there)}")
        return there

    def _array(self, there: Any, given: Any) -> Any:
        if isinstance(there, np.ndarray) and (there.shape, there.dtype) == (
            given.shape,
            given.dtype,
        ):
            if there.tobytes() != given.tobytes():
                np.copyto(there, given)
            return there
        return given[()] if isinstance(there, np.generic) else given.copy()


def _once(tensor: torch.Tensor) -> torch.Tensor:
    """Without the repetitions of an expanded one, which share memory and cannot be written to."""
    return tensor[_places_of_once(tensor)]


def _places_of_once(tensor: torch.Tensor) -> tuple[slice, ...]:
    return tuple(slice(0, 1) if stride == 0 else slice(None) for stride in tensor.stride())


def _is_constant(value: Any) -> bool:
    """A call does not change it, or changes it in a way that depends on no denoiser's output."""
    return isinstance(value, _CONSTANTS) or type(value).__module__.startswith(_CONSTANT_MODULES)


def _is_plain_object(value: Any) -> bool:
    """All that it holds is in its ``__dict__``: none of its classes are of C, nor have slots."""
    kinds = type(value).__mro__[:-1]
    return hasattr(value, "__dict__") and all(
        kind.__flags__ & _HEAP_TYPE and not kind.__dict__.get("__slots__") for kind in kinds
    )


def _key(key: Any) -> Tree:
    """A dictionary's key as JSON. ``Opaque`` where it is none of texts, numbers and tuples."""
    if type(key) in _JSON:
        return key
    if isinstance(key, tuple):
        return [_key(each) for each in key]
    raise Opaque(f"a dictionary by {_name(key)}")


def _back(key: Tree) -> Any:
    return tuple(_back(each) for each in key) if isinstance(key, list) else key


def _name(value: Any) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"


def _told(tree: Tree) -> str:
    return str(next(iter(tree.values())) if tree.keys() & {"k", "o"} else "another kind of thing")


_HEAP_TYPE = 1 << 9  # CPython's Py_TPFLAGS_HEAPTYPE: made by a class statement
_JSON = (type(None), bool, int, float, str)
_CONSTANT = frozenset({"_internal_dict"})  # the configuration of a solver, of a pipeline
_CONSTANTS = (
    torch.nn.Module,
    torch.dtype,
    torch.device,
    torch.Size,
    torch.layout,
    torch.memory_format,
    np.dtype,
    type,
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
    "diffusers.image_processor",
    "diffusers.video_processor",
    # A tree of noise by seed and by the times that were asked for; running again asks for the same.
    "torchsde.",
)
