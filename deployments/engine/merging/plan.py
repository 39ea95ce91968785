"""What each argument of a denoiser call becomes when the calls of several generations are woven.

Pure: decided by name, type and shape alone. A rule that is too wide is silently wrong, so whatever
fits none is refused, and the call runs alone.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import torch

from deployments.engine.content import Digests
from deployments.engine.declarations import Declaration


class Role(StrEnum):
    ROWS = "rows"  # one entry per row along the first dimension: concatenated
    ONE = "one"  # one entry for all rows of the generation: expanded, then concatenated
    FOLDED = "folded"  # rows × frames along the first dimension
    NUMBER = "number"  # a number, which becomes a vector with one entry per row
    LISTED = "listed"  # a list with one tensor per row
    PADDED = "padded"  # as ROWS, brought to the same length along a declared dimension
    MASK = "mask"  # says which of a PADDED's entries count; made where there is none
    SHARED = "shared"  # equal content, passed once
    POSITIONS = "positions"  # equal content, repeated for all rows
    CONSTANT = "constant"  # equal value, passed once
    REPEATED = "repeated"  # a list with one plain value per row, all equal


class Refused(Exception):
    """This call is not merged. The message is a reason to count, in a few words."""


@dataclass(frozen=True, slots=True)
class Rows:
    """How a call's rows lie in its tensors."""

    count: int
    frames: frozenset[int]  # what may be folded into the rows: sizes of the main tensor
    listed: bool  # the main argument is a list with one tensor per row

    @classmethod
    def of(cls, main: Any) -> Rows:
        if isinstance(main, torch.Tensor) and main.ndim >= 1 and main.shape[0]:
            folds = frozenset(main.shape[1:3]) if main.ndim == 5 else frozenset[int]()
            return cls(main.shape[0], folds - {1}, listed=False)
        if _are_tensors(main):
            return cls(len(main), frozenset(), listed=True)
        raise Refused("the first argument is no tensor")


@dataclass(frozen=True, slots=True)
class Leaf:
    """What is done with one argument. ``Many`` is a container of them."""

    role: Role
    dimension: int = 0  # of PADDED


@dataclass(frozen=True, slots=True)
class Many:
    kind: type  # dict, list or tuple
    roles: tuple[tuple[Any, Leaf | Many], ...]  # by key or index


Roles = Leaf | Many
Key = tuple[Hashable, Hashable]
"""What has to be equal for a merge: shapes and types, which recur, and contents, which may not."""


@dataclass(frozen=True, slots=True)
class RoleFinder:
    rows: Rows
    declared: Declaration
    digests: Digests

    def find(self, name: str, value: Any) -> tuple[Roles, Key]:
        """The roles of an argument or of what is in it, and what its batch key takes from it."""
        if name == self.declared.mask:
            return Leaf(Role.MASK), ("mask", None)
        if isinstance(value, torch.Tensor):
            return self._of_tensor(name, value)
        if isinstance(value, Mapping):
            return self._of_many(dict, [(key, str(key), each) for key, each in value.items()])
        if isinstance(value, list | tuple):
            return self._of_sequence(name, value)
        if _is_number(value) and name in NUMBERS:
            return Leaf(Role.NUMBER), (("number", isinstance(value, float)), None)
        if isinstance(value, _PLAIN):
            return Leaf(Role.CONSTANT), (("constant", type(value)), value)
        raise Refused(f"opaque argument {type(value).__name__}")

    def _of_sequence(self, name: str, value: list[Any] | tuple[Any, ...]) -> tuple[Roles, Key]:
        count = self.rows.count
        if self.rows.listed and len(value) == count and _are_tensors(value):
            ragged = name in self.declared.ragged
            shapes = tuple((tuple(each.shape[ragged:]), each.dtype, each.device) for each in value)
            return Leaf(Role.LISTED), (("listed", shapes), None)
        if name in self.declared.repeated and len(value) == count:
            _, (kinds, contents) = self._of_many(type(value), _numbered(name, value))
            return Leaf(Role.REPEATED), (("repeated", kinds), contents)
        return self._of_many(type(value), _numbered(name, value))

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
            raise Refused(f"opaque argument {kind.__name__}")
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
        # The first dimension too: a model may look at how many frames it got for how many rows.
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


def _numbered(name: str, values: list[Any] | tuple[Any, ...]) -> list[tuple[Any, str, Any]]:
    return [(index, name, value) for index, value in enumerate(values)]


def _are_tensors(value: Any) -> bool:
    return (
        isinstance(value, list | tuple)
        and len(value) > 0
        and all(isinstance(each, torch.Tensor) for each in value)
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


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
"""Arguments that models take as one number or as one per row."""

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
"""Arguments that say where tokens are. Some models read those of the first row alone, so they must
be equal even where they have rows. Crop coordinates and ``time_ids`` are not among them."""

_PLAIN = (str, int, float, bool, type(None), torch.dtype, torch.device, bytes)
