"""Trust in merges: which merged forwards are compared with what their calls give alone.

A comparison costs forwards while users wait, and sizes of images are free. What a comparison looks
for is a wrong role of an argument or a model that mixes rows. Both depend on the *pattern* of the
calls, which is all of their signature but the sizes, so a few sizes speak for the others:

- The first ``SHAPES`` sizes of a pattern are compared at their first merge.
- Then the pattern is trusted. Of new sizes, the 8th, 16th, 32nd and so on are compared.
- A size that was trusted unseen is compared at its merge number ``MERGES``. So a size in use is
  compared at last, at less than 2 % of what its merges cost.
- After a difference, no size of the pattern is trusted unseen any more.

A comparison takes place before its results are delivered, and takes two calls, whatever the batch.

Pure: no torch calls, no threads, no clock.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field

from deployments.engine.merging.arguments import tensors_in
from deployments.engine.merging.plan import MergePlan

SHAPES = 3
"""Sizes of a pattern that must have agreed before others are trusted unseen."""
MERGES = 64
"""Merges of a size that was trusted unseen, after which it is compared."""
CALLS = 2
"""Calls that a comparison takes. What mixes rows mixes those of two calls."""


def pattern_of(plan: MergePlan) -> Hashable:
    """Pattern of a call: its roles, rows and dtypes, without sizes.

    A size that makes an argument look like another role, such as a sequence that is as long as
    there are rows, makes another pattern.
    """
    method, rows, positional, _ = plan.signature
    dtypes = tuple(tensor.dtype for tensor in tensors_in(plan.arguments.named))
    return method, rows, positional, tuple(plan.roles.items()), plan.rows.listed, dtypes


@dataclass(slots=True)
class PatternTrust:
    """Trust in the merges of one pattern of calls to one module."""

    agreed: int = 0  # comparisons that found no difference
    differs: bool = False  # one found a difference
    _sizes: int = 0  # that were merged
    _next_compared: int = 2 * (SHAPES + 1)  # number of a size, from 1

    def compares_new(self) -> bool:
        """Return whether the first merge of a new size is to be compared."""
        return self.differs or self.agreed < SHAPES or self._sizes + 1 >= self._next_compared

    def record_size(self) -> None:
        """Record the first merge of a new size."""
        self._sizes += 1
        if self._sizes >= self._next_compared:
            self._next_compared *= 2

    def record_comparison(self, *, equal: bool) -> None:
        self.agreed += equal
        self.differs = self.differs or not equal


@dataclass(slots=True)
class MergeTrust:
    """Trust in the merges of one size, which is one signature of calls."""

    pattern: PatternTrust = field(default_factory=PatternTrust)
    merges: int = 0  # whose results were used
    _compared: bool = False

    def compares(self) -> bool:
        """Return whether the next merge is to be compared."""
        if self._compared:
            return False
        if not self.merges:
            return self.pattern.compares_new()
        return self.pattern.differs or self.merges >= MERGES

    def record_merge(self) -> None:
        """Record a merge whose results are used."""
        if not self.merges:
            self.pattern.record_size()
        self.merges += 1

    def record_comparison(self, *, equal: bool) -> None:
        """Record a comparison, before the merge."""
        self._compared = True
        self.pattern.record_comparison(equal=equal)


def compared_calls(calls: int) -> int:
    """Number of calls of a batch that are merged and compared first; the rest is merged then.

    No rest of one call is left, which would have to run alone.
    """
    return calls if calls <= CALLS + 1 else CALLS
