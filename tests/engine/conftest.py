"""Tiny pipelines, made once: the engine never changes the one that it was given."""

import pytest
import torch

from tests.engine.threads import one_torch_thread
from tests.engine.tiny import tiny_flux, tiny_sd3, tiny_sdxl

__all__ = ["one_torch_thread"]


@pytest.fixture(autouse=True)
def _same_random_values() -> None:
    """What a test draws without a seed of its own is the same in every run and any order."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def flux():
    return tiny_flux()


@pytest.fixture(scope="session")
def sdxl():
    return tiny_sdxl()


@pytest.fixture(scope="session")
def sd3():
    return tiny_sd3()
