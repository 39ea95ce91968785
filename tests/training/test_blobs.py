"""Connected regions of a mask."""

from __future__ import annotations

import numpy as np

from training.blobs import find_blobs


def test_regions_that_touch_at_a_corner_are_one_and_specks_are_none() -> None:
    mask = np.zeros((20, 20), dtype=bool)
    mask[2:6, 2:6] = mask[6:10, 6:10] = mask[15, 15] = True
    (blob,) = find_blobs(mask, smallest=2)
    assert (blob.area, blob.top, blob.left, blob.mask.shape) == (32, 2, 2, (8, 8))


def test_a_winding_region_is_one_region() -> None:
    mask = np.zeros((31, 31), dtype=bool)
    mask[::4] = True
    mask[1::8, -1] = mask[2::8, -1] = mask[3::8, -1] = True
    mask[5::8, 0] = mask[6::8, 0] = mask[7::8, 0] = True
    assert [blob.area for blob in find_blobs(mask, smallest=1)] == [int(mask.sum())]
