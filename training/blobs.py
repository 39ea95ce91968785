"""Connected regions of a mask."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Blob:
    """One connected region. `mask` is bool [height, width], the region's bounding box alone."""

    mask: np.ndarray
    top: int
    left: int

    @property
    def area(self) -> int:
        return int(self.mask.sum())

    @property
    def centre(self) -> tuple[float, float]:
        """x and y of the bounding box's middle, in pixels."""
        height, width = self.mask.shape
        return self.left + width / 2, self.top + height / 2

    @property
    def radius(self) -> float:
        """Half the larger side, in pixels."""
        return max(self.mask.shape) / 2


def find_blobs(mask: np.ndarray, *, smallest: int) -> list[Blob]:
    """The 8-connected regions of at least `smallest` pixels, largest first."""
    labels = _label(mask)
    blobs = []
    for label in np.unique(labels[mask]):
        region = labels == label
        if region.sum() < smallest:
            continue
        rows, columns = np.flatnonzero(region.any(axis=1)), np.flatnonzero(region.any(axis=0))
        top, left = int(rows[0]), int(columns[0])
        blobs.append(Blob(region[top : rows[-1] + 1, left : columns[-1] + 1], top, left))
    return sorted(blobs, key=lambda blob: -blob.area)


def _label(mask: np.ndarray) -> np.ndarray:
    """Each region's pixels carry one positive number of their own: int64, the mask's shape.

    Every pixel takes the largest number of its neighbourhood until nothing changes; following the
    number to the pixel that it names shortens the wait from the region's length to its logarithm.
    """
    numbers = np.where(mask, np.arange(1, mask.size + 1).reshape(mask.shape), 0)
    while True:
        padded = np.pad(numbers, 1)
        height, width = mask.shape
        windows = [padded[y : y + height, x : x + width] for y in range(3) for x in range(3)]
        grown = np.where(mask, np.maximum.reduce(windows), 0)
        grown = np.concatenate([[0], grown.ravel()])[grown]
        if np.array_equal(grown, numbers):
            return numbers
        numbers = grown
