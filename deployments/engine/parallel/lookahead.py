"""Calls that a pipeline will make next, which another device computes at the same time.

Many pipelines with guidance call the denoiser twice in each step, one after the other: with the
prompt, and without. The second call has the latents of the first and differs in arguments that stay
the same from step to step. So once a pair was seen, the first call of a later step tells what the
second will be. When that comes, it is compared with what was expected, value by value. The output
is used only if all of them are equal, and then is the one that the call would get.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import ref

import torch

from deployments.engine.interception.isolation import ThreadState
from deployments.engine.lora.rows import RowMixes
from deployments.engine.merging.arguments import CallArguments, tensors_in, versions_in

Key = tuple[int, ...]
"""Tensors in which a first call differs from its second one, by identity."""

_MAX_PAIRS = 16
_MAX_SEEN = 4  # calls that are remembered for finding pairs, with their tensors


@dataclass(frozen=True, slots=True)
class SeenCall:
    """Call, with the versions that its tensors had."""

    arguments: CallArguments
    versions: Sequence[int | None]
    thread: ThreadState
    mixes: RowMixes

    @classmethod
    def of(cls, arguments: CallArguments, mixes: RowMixes) -> SeenCall:
        versions = versions_in(arguments.named)
        return cls(arguments, versions, ThreadState.of_this_thread(), mixes)

    def is_unchanged(self) -> bool:
        """Return whether nothing was written into its tensors since."""
        return None not in self.versions and versions_in(self.arguments.named) == self.versions

    def goes_with(self, other: SeenCall) -> bool:
        """Return whether both have the same settings and argument names."""
        return (
            self.thread == other.thread
            and self.mixes == other.mixes
            and self.arguments.positional == other.arguments.positional
            and self.arguments.named.keys() == other.arguments.named.keys()
        )


@dataclass(frozen=True, slots=True)
class _Pair:
    tensors: Sequence[ref[torch.Tensor]]  # of the key; a dead one's number may be another tensor's
    second: Mapping[str, Any]  # arguments of the second call in which it differs


@dataclass(frozen=True, slots=True)
class _Ahead:
    call: SeenCall
    output: Any


class Lookahead:
    """Pairs of calls of one denoiser, and outputs that were computed ahead."""

    def __init__(self) -> None:
        self._seen: OrderedDict[int, SeenCall] = OrderedDict()  # last calls, by their first tensor
        self._pairs: OrderedDict[Key, _Pair] = OrderedDict()
        self._ahead: dict[Key, _Ahead] = {}

    def next_after(self, arguments: CallArguments) -> tuple[Key, CallArguments] | None:
        """Return the call that is expected after this one, with its pair's key; None if none is."""
        for key, pair in list(self._pairs.items()):
            if any(arguments.named.get(name) is None for name in pair.second):
                continue
            if _tensors([arguments.named[name] for name in pair.second], pair.tensors) != key:
                continue
            if self._ahead.pop(key, None) is not None:  # the second call has not come
                del self._pairs[key]
                return None
            return key, arguments.with_values({**arguments.named, **pair.second})
        return None

    def keep(self, key: Key, call: SeenCall, output: Any) -> None:
        """Keep the output of an expected call."""
        self._ahead[key] = _Ahead(call, output)

    def take(self, arguments: CallArguments, mixes: RowMixes) -> Any | None:
        """Return the output of this call if it was computed ahead; else None."""
        now = SeenCall.of(arguments, mixes)
        for key, ahead in list(self._ahead.items()):
            if ahead.call.arguments.main() is not arguments.main():
                continue
            if ahead.call.goes_with(now) and ahead.call.is_unchanged():
                expected = ahead.call.arguments.named
                if _same(expected, arguments.named):
                    del self._ahead[key]
                    return ahead.output
        return None

    def learn(self, arguments: CallArguments, mixes: RowMixes) -> None:
        """Remember a call, and that it is the second of a pair if it is."""
        main = arguments.main()
        now = SeenCall.of(arguments, mixes)
        if not isinstance(main, torch.Tensor) or None in now.versions:
            return
        first = self._seen.pop(id(main), None)
        if first is not None and first.arguments.main() is main and first.is_unchanged():
            self._learn_pair(first, now)
        self._seen[id(main)] = now
        while len(self._seen) > _MAX_SEEN:
            self._seen.popitem(last=False)

    def _learn_pair(self, first: SeenCall, second: SeenCall) -> None:
        if not first.goes_with(second):
            return
        before, after = first.arguments.named, second.arguments.named
        differs = [name for name in before if not _same(before[name], after[name])]
        tensors = [*tensors_in([before[name] for name in differs])]
        if not tensors or any(before[name] is None for name in differs):
            return
        key = tuple(map(id, tensors))
        self._ahead.pop(key, None)  # it was expected otherwise
        self._pairs[key] = _Pair(
            [ref(tensor) for tensor in tensors], {n: after[n] for n in differs}
        )
        while len(self._pairs) > _MAX_PAIRS:
            self._ahead.pop(self._pairs.popitem(last=False)[0], None)


def _tensors(values: Sequence[Any], known: Sequence[ref[torch.Tensor]]) -> Key | None:
    """Identities of the tensors, if they are the known ones."""
    tensors = [*tensors_in(values)]
    if len(tensors) != len(known):
        return None
    same = all(tensor is reference() for tensor, reference in zip(tensors, known, strict=True))
    return tuple(map(id, tensors)) if same else None


def _same(value: Any, other: Any) -> bool:
    """Return whether both are equal. Tensors that are not the same are read."""
    if value is other:
        return True
    if type(value) is not type(other):
        return False
    if isinstance(value, torch.Tensor):
        alike = (value.shape, value.dtype, value.device) == (other.shape, other.dtype, other.device)
        return alike and torch.equal(value, other)
    if isinstance(value, Mapping):
        return value.keys() == other.keys() and all(_same(value[k], other[k]) for k in value)
    if isinstance(value, list | tuple):
        both = zip(value, other, strict=False)
        return len(value) == len(other) and all(_same(a, b) for a, b in both)
    return bool(value == other)
