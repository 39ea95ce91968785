"""Tuning with real processes: what fails is marked, and the rest goes on."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from deployments.replica.tuned import Machine, Measurement, Tuning, TuningFile
from deployments.tuning import variants
from deployments.tuning.job import DeviceFacts, Job, MeasureVariant, Workload
from deployments.tuning.session import TunedModel, TuneOptions, TuningSession
from deployments.tuning.variants import Subject, Switch
from deployments.tuning.verdicts import Verdicts
from deployments.tuning.worker import answer
from serve_app.domain.endpoint import Endpoint, StoreConfig
from tests.deployments.demos import CATALOG, FLUX

pytestmark = pytest.mark.engine

ENTRY = CATALOG.get(FLUX)
INPUT = {"prompt": "a red circle", "num_inference_steps": 1, "seed": 1, "image_size": "square"}

FLUX_FAMILY = "deployments.families.flux:FluxFamily"
CROWDED = "tests.deployments.tuning.crowded:Crowded"


def model() -> TunedModel:
    subject = Subject(ENTRY.endpoint, None, discrete=False)
    inputs = (ENTRY.schema.validate(INPUT)[0],)
    return TunedModel("flux:demo", (Workload(ENTRY.endpoint, inputs),), (FLUX,), subject, 1)


class InProcess(TuningSession):
    """Session that measures in this process, which has loaded torch already."""

    def _ask(self, job: Job, timeout_s: float | None) -> Any:
        del timeout_s
        return answer(job)


class KilledElsewhere(InProcess):
    """Session that measures in this process all but what kills the process that measures it."""

    def _ask(self, job: Job, timeout_s: float | None) -> Any:
        if isinstance(job, MeasureVariant) and job.variant == "killed":
            return TuningSession._ask(self, job, timeout_s)
        return super()._ask(job, timeout_s)


def session(
    folder: Path, family: str = CROWDED, kind: type[TuningSession] = TuningSession
) -> TuningSession:
    return kind(
        TuningFile(folder / "tuning.json"),
        folder / "tuning",
        {"flux": family},
        StoreConfig(),
        time.monotonic,
        needs_gpu=False,
    )


@pytest.mark.long
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
    tuner = session(tmp_path, kind=KilledElsewhere)
    facts = tuner.describe_device()
    shown: list[str] = []

    def show(_: Tuning, measured: Measurement) -> None:
        shown.append(measured.variant)

    options = TuneOptions(0.9, time.monotonic() + 600)
    result = tuner.tune(model(), facts, options, show)
    by_variant = {measurement.variant: measurement for measurement in result.tuning.measurements}
    assert shown == ["plain", "too large", "killed", "after"]
    assert "out of memory" in by_variant["too large"].error.lower()
    assert "signal 9" in by_variant["killed"].error
    assert by_variant["plain"].ok
    assert by_variant["after"].ok, by_variant["after"].error
    assert by_variant["after"].psnr_db is None  # the same values
    assert by_variant["plain"].generation_s > 0 < by_variant["plain"].peak_bytes
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


@pytest.mark.long
def test_a_variant_whose_switch_is_off_is_left_out_unless_it_is_kept_or_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        variants,
        "SWITCHES",
        (Switch("compiled", {"compile": True}), Switch("graphs", {"graphs": True})),
    )
    tuner = session(tmp_path, FLUX_FAMILY, InProcess)
    facts = DeviceFacts(Machine("CPU", "", "2", "0"), "cpu", False, 0, 0)
    options = TuneOptions(0.9, time.monotonic() + 600, verdicts=Verdicts({"compile": "no faster"}))

    def tuned(options: TuneOptions) -> tuple[list[str], Tuning]:
        shown: list[str] = []

        def show(_: Tuning, measured: Measurement) -> None:
            shown.append(measured.variant)

        return shown, tuner.tune(model(), facts, options, show).tuning

    shown, tuning = tuned(options)
    assert shown == ["plain", "graphs"]
    assert tuning.left_out == {"compiled": "compile is off: no faster"}
    assert tuning.complete
    assert tuner.file.read() == (tuning,)

    shown, tuning = tuned(replace(options, variants=("compiled",)))
    assert shown == ["plain", "compiled"]  # it was asked for
    assert tuning.left_out == {}

    shown, tuning = tuned(options)
    assert shown == ["plain", "compiled", "graphs"]  # all of them are kept
    assert tuning.left_out == {}

    shown, tuning = tuned(replace(options, again=True))
    assert shown == ["plain", "graphs"]
    assert tuning.left_out == {"compiled": "compile is off: no faster"}

    shown, tuning = tuned(replace(options, verdicts=Verdicts()))
    assert shown == ["plain", "compiled", "graphs"]
    assert tuning.left_out == {}


DEV = CATALOG.get("fal-ai/flux/dev").endpoint
CACHE = {"name": "FirstBlockCache", "threshold": 9.0}


def with_adapter(folder: Path) -> Endpoint:
    """An endpoint over the same weights with an adapter and a solver of its own."""
    folder.mkdir()
    up = torch.full((128, 4), 0.05)
    save_file(
        {
            "transformer.transformer_blocks.0.attn.to_q.lora_A.weight": torch.ones(4, 128),
            "transformer.transformer_blocks.0.attn.to_q.lora_B.weight": up,
        },
        folder / "pytorch_lora_weights.safetensors",
    )
    options = {**DEV.options, "adapters": [{"directory": str(folder)}]}
    del options["step_cache"]
    return replace(DEV, id="e/turbo", options=options)


@pytest.mark.long
def test_endpoints_with_adapters_are_measured_too_and_step_caches_over_what_was_chosen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(variants, "STEP_CACHES", (CACHE,))
    tuner = session(tmp_path, FLUX_FAMILY, InProcess)
    facts = DeviceFacts(Machine("CPU", "", "2", "0"), "cpu", False, 0, 0)
    inputs = [dict(model().workloads[0].inputs[0], num_inference_steps=4)]
    turbo = with_adapter(tmp_path / "lora")
    other = replace(DEV, id="e/other", weights=replace(DEV.weights, source=str(tmp_path)))
    entries = [(turbo, inputs), (DEV, inputs), (replace(DEV, id="e/same"), inputs), (other, inputs)]
    models = tuner.models(entries, facts, lambda *_: None)
    assert [group.endpoints for group in models] == [(DEV.id, "e/same", "e/turbo"), ("e/other",)]
    assert [workload.endpoint.id for workload in models[0].workloads] == [DEV.id, "e/turbo"]
    names = tuner.variants(models)
    assert {"step cache regular", "step cache high", "step cache 9.0"} <= set(names)

    options = TuneOptions(0.0, time.monotonic() + 600, ("step cache 9.0",))
    result = tuner.tune(models[0], facts, options, lambda *_: None)
    plain, cached = result.tuning.measurements
    assert plain.ok, plain.error
    assert cached.ok, cached.error
    assert cached.step_cache == CACHE
    assert cached.recipe == plain.recipe
    assert cached.psnr_db is not None  # the cache has changed results
    (file,) = (tmp_path / "tuning").glob("*.safetensors")
    of_dev, of_turbo = load_file(file).values()
    assert not torch.equal(of_dev, of_turbo)  # the adapter has changed them
