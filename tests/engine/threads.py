"""How many threads torch computes with, in tests that compare bits."""

import pytest
import torch


@pytest.fixture(autouse=True)
def one_torch_thread():
    """Sums in another order give other bits, and how many threads there are decides the order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
