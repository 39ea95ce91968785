"""Values of weights that are no numbers to compute with."""

from __future__ import annotations

from torch import Tensor

DIVERGED = (
    "has values that are not finite numbers (NaN or infinite): the training diverged, or the file "
    "was converted to a type that is too small."
)
"""End of a sentence that begins with a tensor's name. All that is made with it would be black."""


def has_finite_values(tensor: Tensor) -> bool:
    """Return whether all values are finite numbers. Those of types of 8 bits and fewer are."""
    if tensor.itemsize < 2 or not tensor.is_floating_point():
        return True
    return bool(tensor.isfinite().all())
