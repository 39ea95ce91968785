"""Tiny pipelines, made once: the engine never changes the one that it was given."""

import pytest
import torch

from tests.engine.tiny import tiny_flux, tiny_sd3, tiny_sdxl


@pytest.fixture(scope="session")
def flux():
    return tiny_flux()


@pytest.fixture(scope="session")
def sdxl():
    return tiny_sdxl()


@pytest.fixture(scope="session")
def sd3():
    return tiny_sd3()


@pytest.fixture(autouse=True)
def _one_torch_thread():
    """Sums in another order give other bits, and how many threads there are decides the order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
