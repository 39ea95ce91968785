"""Merge plan of a call: the roles of its arguments when several calls are stacked, and its key.

Pure: decided by name, type and shape alone. A rule that is too wide is silently wrong. Therefore an
argument that fits no rule is refused, and the call runs alone.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import torch

from deployments.engine.interception.components import LANGUAGE_MODEL
from deployments.engine.interception.model_traits import NOTHING, ModelTrait
from deployments.engine.interception.proxy import ComponentCall
from deployments.engine.merging.arguments import (
    CallArguments,
    ContentDigests,
    bind,
    tensors_in,
)


class Role(StrEnum):
    ROWS = "rows"  # one entry per row along the first dimension: concatenated
    ONE = "one"  # one entry for all rows of the generation: expanded, then concatenated
    FOLDED = "folded"  # rows × frames along the first dimension
    NUMBER = "number"  # a number, which becomes a vector with one entry per row
    LISTED = "listed"  # a list with one tensor per row
    PADDED = "padded"  # like ROWS, padded to the same length along a declared dimension
    MASK = "mask"  # mask of the valid entries of a PADDED argument; created if missing
    SHARED = "shared"  # equal content, passed once
    POSITIONS = "positions"  # equal content, repeated for all rows
    CONSTANT = "constant"  # equal value, passed once
    REPEATED = "repeated"  # a list with one plain value per row, all equal


class NotMergeable(Exception):
    """Call that must not be merged. The message is a short reason, used as a counter's key."""


@dataclass(frozen=True, slots=True)
class Rows:
    """Arrangement of a call's rows in its tensors."""

    count: int
    frames: frozenset[int]  # sizes of the main tensor that may be folded into the rows
    listed: bool  # the main argument is a list with one tensor per row

    @classmethod
    def of(cls, main: Any) -> Rows:
        if isinstance(main, torch.Tensor) and main.ndim >= 1 and main.shape[0]:
            folds = frozenset(main.shape[1:3]) if main.ndim == 5 else frozenset[int]()
            return cls(main.shape[0], folds - {1}, listed=False)
        if _are_tensors(main):
            return cls(len(main), frozenset(), listed=True)
        raise NotMergeable("the first argument is no tensor")


@dataclass(frozen=True, slots=True)
class Leaf:
    """Role of one argument, a leaf of the tree of arguments. ``Many`` is an inner node."""

    role: Role
    dimension: int = 0  # the dimension to pad, for PADDED


@dataclass(frozen=True, slots=True)
class Many:
    kind: type  # dict, list or tuple
    roles: tuple[tuple[Any, Leaf | Many], ...]  # by key or index


Roles = Leaf | Many
Key = tuple[Hashable, Hashable]
"""Values that must be equal for a merge: shapes and types, which recur between requests, and
contents, which may not."""


@dataclass(frozen=True, slots=True)
class RoleFinder:
    rows: Rows
    declared: ModelTrait
    digests: ContentDigests

    def find(self, name: str, value: Any) -> tuple[Roles, Key]:
        """Find the roles of an argument or of its members, and its part of the batch key."""
        if name == self.declared.mask:
            return Leaf(Role.MASK), ("mask", None)
        if isinstance(value, torch.Tensor):
            return self._of_tensor(name, value)
        if isinstance(value, Mapping):
            return self._of_many(dict, [(key, str(key), item) for key, item in value.items()])
        if isinstance(value, list | tuple):
            return self._of_sequence(name, value)
        if _is_number(value) and name in NUMBERS:
            return Leaf(Role.NUMBER), (("number", isinstance(value, float)), None)
        if isinstance(value, _PLAIN):
            return Leaf(Role.CONSTANT), (("constant", type(value)), value)
        raise NotMergeable(f"opaque argument {type(value).__name__}")

    def _of_sequence(self, name: str, value: list[Any] | tuple[Any, ...]) -> tuple[Roles, Key]:
        count = self.rows.count
        if self.rows.listed and len(value) == count and _are_tensors(value):
            ragged = name in self.declared.ragged
            shapes = tuple(
                (tuple(tensor.shape[ragged:]), tensor.dtype, tensor.device) for tensor in value
            )
            return Leaf(Role.LISTED), (("listed", shapes), None)
        if name in self.declared.repeated and len(value) == count:
            _, (kinds, contents) = self._of_many(type(value), _enumerate_values(name, value))
            return Leaf(Role.REPEATED), (("repeated", kinds), contents)
        return self._of_many(type(value), _enumerate_values(name, value))

    def _of_many(self, kind: type, named: list[tuple[Any, str, Any]]) -> tuple[Roles, Key]:
        roles: list[tuple[Any, Roles]] = []
        kinds: list[Hashable] = []
        contents: list[Hashable] = []
        for key, name, value in named:
            role, (its_kind, content) = self.find(name, value)
            roles.append((key, role))
            kinds.append((key, its_kind))
            contents.append(content)
        if kind not in (dict, list, tuple):
            raise NotMergeable(f"opaque argument {kind.__name__}")
        return Many(kind, tuple(roles)), ((kind, tuple(kinds)), tuple(contents))

    def _of_tensor(self, name: str, tensor: torch.Tensor) -> tuple[Roles, Key]:
        if name in self.declared.pad:
            dimension = self.declared.pad[name]
            rest = (*tensor.shape[1:dimension], None, *tensor.shape[dimension + 1 :])
            return Leaf(Role.PADDED, dimension), _kind(Role.PADDED, tensor, rest)
        role = self._role_of_tensor(name, tensor)
        if role in (Role.SHARED, Role.POSITIONS):
            kind, _ = _kind(role, tensor, tuple(tensor.shape))
            return Leaf(role), (kind, self.digests.of(tensor))
        # Includes the first dimension: a model may derive the number of frames from it.
        return Leaf(role), _kind(role, tensor, tuple(tensor.shape))

    def _role_of_tensor(self, name: str, tensor: torch.Tensor) -> Role:
        count = self.rows.count
        first = tensor.shape[0] if tensor.ndim else 0
        if name in POSITION_NAMES or name in self.declared.shared:
            return Role.POSITIONS if tensor.ndim >= 3 and first == count else Role.SHARED
        if tensor.ndim == 0:
            return Role.NUMBER if name in NUMBERS else Role.SHARED
        if first == count:
            return Role.ROWS
        if first == 1:
            return Role.ONE
        if first % count == 0 and first // count in self.rows.frames:
            return Role.FOLDED
        return Role.SHARED


def _kind(role: Role, tensor: torch.Tensor, shape: tuple[int | None, ...]) -> Key:
    return (role, shape, tensor.dtype, tensor.device), None


def _enumerate_values(name: str, values: list[Any] | tuple[Any, ...]) -> list[tuple[Any, str, Any]]:
    return [(index, name, value) for index, value in enumerate(values)]


def _are_tensors(value: Any) -> bool:
    return (
        isinstance(value, list | tuple)
        and len(value) > 0
        and all(isinstance(item, torch.Tensor) for item in value)
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


Signature = tuple[str, int, int, Hashable]
"""Method, rows, number of positional arguments, and shapes and types of all arguments."""


@dataclass(frozen=True, slots=True)
class MergePlan:
    """Plan of one call. Calls with equal keys may share a forward."""

    arguments: CallArguments
    roles: dict[str, Roles]
    rows: Rows
    declared: ModelTrait
    signature: Signature  # shapes and types, which recur from request to request
    contents: Hashable  # values that must be equal

    @property
    def device(self) -> torch.device:
        return next(tensors_in(self.arguments.main())).device

    def padded_shapes(self) -> list[Sequence[int]]:
        return [self.arguments.named[name].shape for name in self.declared.pad]


def plan_merge(
    call: ComponentCall, digests: ContentDigests, declared: ModelTrait = NOTHING
) -> MergePlan:
    """Plan a call. Raises ``NotMergeable`` with the reason when it must not be merged.

    ``declared``: model rules of its module's class.
    """
    if declared.merge_refusal:
        raise NotMergeable(declared.merge_refusal)
    if call.component == LANGUAGE_MODEL:  # a token is taken or not: nothing is almost equal
        raise NotMergeable("other rounding chooses other words")
    try:
        arguments = bind(call.module, call.arguments, call.keywords, call.method)
    except TypeError as error:
        raise NotMergeable(f"arguments that {_name(call)} does not take") from error
    rows = Rows.of(arguments.main())
    finder = RoleFinder(rows, declared, digests)
    roles: dict[str, Roles] = {}
    kinds: list[Hashable] = []
    contents: list[Hashable] = []
    for name, value in arguments.named.items():
        if name in declared.unused:
            roles[name], kind, content = Leaf(Role.CONSTANT), "unused", None
        else:
            roles[name], (kind, content) = finder.find(name, value)
        if name != declared.mask:
            kinds.append((name, kind))
            contents.append(content)
    signature = (call.method, rows.count, arguments.positional, tuple(kinds))
    return MergePlan(arguments, roles, rows, declared, signature, tuple(contents))


def _name(call: ComponentCall) -> str:
    return "forward" if call.method == "__call__" else call.method


NUMBERS = frozenset(
    {
        "timestep",
        "timesteps",
        "t",
        "r",
        "timestep_r",
        "r_timestep",
        "timestep_ratio",
        "audio_timestep",
        "sigma",
        "audio_sigma",
        "guidance",
    }
)
"""Arguments that models accept as one number or as one number per row."""

POSITION_NAMES = frozenset(
    {
        "img_ids",
        "txt_ids",
        "image_cond_ids",
        "position_ids",
        "image_rotary_emb",
        "rotary_embedding",
        "video_rotary_emb",
        "visual_rope_pos",
        "text_rope_pos",
        "video_coords",
        "audio_coords",
    }
)
"""Arguments that hold positions of tokens.

Some models read those of the first row alone, so they must be equal even where they have rows. Crop
coordinates and ``time_ids`` are not among them.
"""

_PLAIN = (str, int, float, bool, type(None), torch.dtype, torch.device, bytes)
