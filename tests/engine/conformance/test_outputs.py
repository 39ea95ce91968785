"""What is compared, and how: a comparison that cannot fail would prove nothing."""

import numpy as np
import pytest
import torch
from PIL import Image

from tests.engine.conformance.outputs import difference, same_bits, tensors_of

pytestmark = pytest.mark.engine


def test_arrays_tensors_and_images_are_found_however_deep():
    image = Image.new("RGB", (2, 2))
    output = {"images": [image, np.zeros(3)], "more": (torch.ones(2), "words", None)}
    assert [tuple(tensor.shape) for tensor in tensors_of(output)] == [(2, 2, 3), (3,), (2,)]


def test_one_bit_makes_outputs_differ():
    ones = torch.ones(4)
    assert same_bits([ones], [ones.clone()])
    assert not same_bits([ones], [ones + torch.tensor([0.0, 0.0, 0.0, 1e-7])])


def test_nothing_to_compare_is_no_equality():
    assert not same_bits([], [])
    assert difference([], []) == float("inf")


def test_a_difference_is_relative_to_the_range_of_what_was_expected():
    assert difference(torch.tensor([0.0, 10.5]), torch.tensor([0.0, 10.0])) == pytest.approx(0.05)


@pytest.mark.parametrize("other", [torch.zeros(3), torch.tensor([0.0, float("nan")])])
def test_other_shapes_and_what_is_no_number_are_as_far_as_can_be(other):
    assert difference(other, torch.zeros(2)) == float("inf")
