"""What the engine has to be told about some classes of models. Most need none."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any


class Joins(Enum):
    """How an autoencoder makes a clip of the chunks that it decodes."""

    IN_LINE = "their frames, one after another"
    LAPPED_WITHOUT_FIRST = "tiles blended into each other; of all but one, the first frame goes"
    LAPPED_WITHOUT_LAST = "tiles blended into each other; of all but one, the last frame goes"


@dataclass(frozen=True, slots=True)
class Declaration:
    """Of one class, of a component or of a pipeline."""

    # Of a component's calls, for merging.
    shared: frozenset[str] = frozenset()  # further arguments that hold positions
    repeated: frozenset[str] = frozenset()  # lists with one plain value per row
    ragged: frozenset[str] = frozenset()  # lists whose tensors may have other lengths in each row
    pad: Mapping[str, int] = field(default_factory=dict)  # argument -> dimension of its length
    mask: str = ""  # the argument [rows, length] by which the model ignores what was padded
    unused: frozenset[str] = frozenset()  # arguments that it takes and does not look at
    solo: str = ""  # why its calls are never merged

    # Of an autoencoder of clips or sounds, itself and no class that is made of it.
    chunked: bool = False  # it takes them in chunks, and changes nothing but itself on the way
    joins: Joins | None = None  # how what it decodes of a clip is made of its chunks

    # Of a component or a pipeline.
    undividable: str = ""  # why diffusers cannot divide it among several devices after all

    # Of a pipeline.
    draws_globally: bool = False  # also from torch's global random state, beside its generator
    decodes_last: bool = False  # itself: it does nothing more with the clip that it has decoded
    # Of those frames, how many at the start it leaves out all the same, told by the pipeline.
    leaves_out: Callable[[Any], int] = lambda _: 0


ModelFamily = Mapping[str, Declaration]
"""By the names of classes: importing it imports none of them."""

NOTHING = Declaration()


class Declarations:
    """Of several families. Thread-safe: classes are looked up once, whoever does it first."""

    def __init__(self, by_name: ModelFamily) -> None:
        self._by_name = by_name
        self._found: dict[type, Declaration] = {}

    def also(self, families: Iterable[ModelFamily]) -> Declarations:
        """These and those of ``families``. Of two for the same class, the later holds."""
        more = (item for family in families for item in family.items())
        return Declarations({**self._by_name, **dict(more)})

    def of(self, kind: type) -> Declaration:
        """For a class, or the nearest of those that it is made of."""
        if (known := self._found.get(kind)) is None:
            names = (each.__name__ for each in kind.__mro__)
            declared = (self._by_name[name] for name in names if name in self._by_name)
            known = self._found[kind] = next(declared, NOTHING)
        return known

    def of_itself(self, kind: type) -> Declaration:
        """For a class alone: what is made of it may do otherwise."""
        return self._by_name.get(kind.__name__, NOTHING)
