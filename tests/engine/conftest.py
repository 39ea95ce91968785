"""Tiny pipelines, made once: the engine never changes the one that it was given."""

import pytest

from tests.engine.threads import one_torch_thread
from tests.engine.tiny import tiny_flux, tiny_sd3, tiny_sdxl

__all__ = ["one_torch_thread"]


@pytest.fixture(scope="session")
def flux():
    return tiny_flux()


@pytest.fixture(scope="session")
def sdxl():
    return tiny_sdxl()


@pytest.fixture(scope="session")
def sd3():
    return tiny_sd3()
