"""Chooses the sample, and says how to repeat it."""

from __future__ import annotations

import secrets

import pytest

from tests.engine.conformance.__main__ import be_quiet
from tests.engine.conformance.sample import sample
from tests.engine.conformance.zoo import cases

SAMPLE_SIZE = 30  # about two seconds each


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "case" not in metafunc.fixturenames:
        return
    seed = metafunc.config.getoption("--conformance-seed")
    if seed is None:
        seed = secrets.randbelow(10**6)
    light = [case for case in cases().values() if not case.heavy]
    chosen = sample(light, seed, SAMPLE_SIZE)
    metafunc.parametrize(
        "case", chosen, ids=[f"{case.name}, --conformance-seed {seed}" for case in chosen]
    )


@pytest.fixture(autouse=True)
def _quiet():
    be_quiet()
