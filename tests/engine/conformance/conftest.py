"""Chooses the sample, and says how to repeat it."""

from __future__ import annotations

import secrets
from typing import Any

import pytest

from tests.engine.conformance.__main__ import be_quiet
from tests.engine.conformance.case import Case
from tests.engine.conformance.defects import DEFECTS
from tests.engine.conformance.derived import NOT_TRIED
from tests.engine.conformance.sample import sample
from tests.engine.conformance.zoo import cases

SAMPLE_SIZE = 6  # one or two seconds each


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    names = {"case", "derivable"} & {*metafunc.fixturenames}
    if not names:
        return
    seed = metafunc.config.getoption("--conformance-seed")
    if seed is None:
        seed = secrets.randbelow(10**6)
    light = [case for case in cases().values() if not case.heavy]
    if "case" in names:
        chosen = [_test(case, seed) for case in sample(light, seed, SAMPLE_SIZE)]
        metafunc.parametrize("case", chosen)
    else:
        light = [case for case in light if case.name not in NOT_TRIED and not case.variant]
        chosen = [
            pytest.param(case, id=f"{case.title} --conformance-seed {seed}")
            for case in sample(light, seed, SAMPLE_SIZE)
        ]
        metafunc.parametrize("derivable", chosen)


def _test(case: Case, seed: int) -> Any:
    why = DEFECTS.get(case.title)
    marks = [pytest.mark.xfail(reason=why, strict=True)] if why else []
    return pytest.param(case, id=f"{case.title} --conformance-seed {seed}", marks=marks)


@pytest.fixture(autouse=True)
def _quiet():
    be_quiet()
