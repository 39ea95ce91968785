"""Tuning with real processes: what fails is marked, and the rest goes on."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from deployments.replica.tuned import Machine, Measurement, Tuning, TuningFile
from deployments.tuning import variants
from deployments.tuning.job import DeviceFacts
from deployments.tuning.session import TunedModel, TuneOptions, TuningSession
from deployments.tuning.variants import Subject, Switch
from serve_app.domain.endpoint import StoreConfig
from tests.deployments.demos import CATALOG, FLUX

pytestmark = pytest.mark.engine

ENTRY = CATALOG.get(FLUX)
INPUT = {"prompt": "a red circle", "num_inference_steps": 1, "seed": 1, "image_size": "square"}


def model() -> TunedModel:
    subject = Subject(ENTRY.endpoint, None, discrete=False)
    inputs = (ENTRY.schema.validate(INPUT)[0],)
    return TunedModel("flux:demo", ENTRY.endpoint, (FLUX,), subject, inputs, 1)


def session(folder: Path) -> TuningSession:
    return TuningSession(
        TuningFile(folder / "tuning.json"),
        folder / "tuning",
        {"flux": "tests.deployments.tuning.crowded:Crowded"},
        StoreConfig(),
        time.monotonic,
        needs_gpu=False,
    )


def test_a_variant_that_fails_is_marked_and_the_rest_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = (
        Switch("too large", {"precision": "float16"}),
        Switch("killed", {"precision": "bfloat16"}),
    )
    monkeypatch.setattr(
        variants,
        "SWITCHES",
        (*rows, Switch("after", {"memory_gb": 1, "dtypes": {"vae": "float32"}})),
    )
    tuner = session(tmp_path)
    facts = tuner.describe_device()
    shown: list[str] = []

    def show(_: Tuning, measured: Measurement) -> None:
        shown.append(measured.variant)

    options = TuneOptions(0.9, time.monotonic() + 600)
    result = tuner.tune(model(), facts, options, show)
    found = {each.variant: each for each in result.tuning.measurements}
    assert shown == ["plain", "too large", "killed", "after"]
    assert "out of memory" in found["too large"].error.lower()
    assert "signal 9" in found["killed"].error
    assert found["plain"].ok
    assert found["after"].ok, found["after"].error
    assert found["after"].psnr_db is None  # the same values
    assert found["plain"].generation_s > 0 < found["plain"].peak_bytes
    assert result.tuning.complete
    assert tuner.file.read() == (result.tuning,)
    assert not list((tmp_path / "tuning").glob("*.safetensors"))


def test_nothing_is_begun_after_the_deadline(tmp_path: Path) -> None:
    tuner = session(tmp_path)

    def never(*_: Any) -> None:
        raise AssertionError

    facts = DeviceFacts(Machine("CPU", "", "2", "0"), "cpu", False, 0, 0)
    result = tuner.tune(model(), facts, TuneOptions(0.9, time.monotonic() - 1), never)
    assert result.out_of_time
    assert result.tuning.measurements == ()
