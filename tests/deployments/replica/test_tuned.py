"""A replica picks what ``darkroom tune`` has chosen, on the machine on which it was measured."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from deployments.engine.accelerator.selection import accelerator_for
from deployments.families.base import load_families
from deployments.families.registry import FAMILIES
from deployments.replica.config import ReplicaConfig
from deployments.replica.deployment import make_resources
from deployments.replica.resources import weights_name
from deployments.replica.tuned import (
    Machine,
    Measurement,
    TunedRecipes,
    Tuning,
    TuningFile,
    machine_of,
    revision_of,
)
from deployments.transfer.uploader import Backoff
from serve_app.domain.endpoint import Endpoint, Recipe, Weights
from serve_app.telemetry.clock import SystemClock
from tests.captured_logs import CapturedLogs
from tests.engine.tiny import save_tiny_flux

pytestmark = pytest.mark.engine

MACHINE = Machine("H200", "580.1", "2.13", "0.42")
DEFAULT = Recipe(80, "bfloat16", hot=("vae",))
FAST = replace(DEFAULT, compile=True)
ENDPOINT = Endpoint("e", "flux", Weights("a/b", "1"), "s", options={"tiling": True, "x": 1})
NAME = weights_name(ENDPOINT, DEFAULT)


def tuning(name: str = NAME, machine: Machine = MACHINE, revision: str = "1") -> Tuning:
    measurements = (
        Measurement("plain", DEFAULT, generation_s=2.0, step_s=0.2),
        Measurement("compiled", FAST, {"tiling": None}, generation_s=1.0, step_s=0.1),
    )
    return Tuning(machine, name, revision, ("e",), 4, 0.9, 0, measurements=measurements)


def test_the_chosen_variant_is_loaded_instead_of_the_recipe(
    caplog: CapturedLogs,
) -> None:
    caplog.set_level(logging.INFO)
    tuned = TunedRecipes([tuning()], MACHINE)
    for _ in range(2):
        endpoint, recipe = tuned.find(NAME, ENDPOINT).apply_to(ENDPOINT)
        assert recipe == FAST
        assert endpoint.options == {"x": 1}
    (line,) = [record.message for record in caplog.records]
    assert "uses the variant compiled" in line
    assert "0.100 s per step, 2.00 times as fast as the recipe" in line


@pytest.mark.parametrize(
    "other",
    [
        tuning(machine=replace(MACHINE, device="H100")),
        tuning(machine=replace(MACHINE, driver="581.0")),
        tuning(machine=replace(MACHINE, torch="2.14")),
        tuning(machine=replace(MACHINE, diffusers="0.43")),
        tuning(revision="2"),
        tuning(name="flux:a/c@1"),
    ],
)
def test_what_was_measured_elsewhere_or_with_other_weights_is_not_used(other: Tuning) -> None:
    assert TunedRecipes([other], MACHINE).find(NAME, ENDPOINT) is None


def test_the_chosen_step_cache_is_what_acceleration_chooses(tmp_path: Path) -> None:
    """Through the real resources; a request for every step gets every step."""
    save_tiny_flux(tmp_path / "flux")
    declared = {"name": "FirstBlockCache", "threshold": 0.08}
    chosen = {"name": "FirstBlockCache", "threshold": 0.2}
    endpoint = Endpoint(
        "e", "flux", Weights(str(tmp_path / "flux")), "s", options={"step_cache": declared}
    )
    name, machine = weights_name(endpoint, None), machine_of(accelerator_for("cpu"))
    kept = replace(
        tuning(name, machine, revision_of(endpoint.weights)),
        measurements=(
            Measurement("plain", Recipe(0, "float32"), generation_s=2.0),
            Measurement("cached", Recipe(0, "float32"), step_cache=chosen, generation_s=1.0),
        ),
    )
    file = TuningFile(tmp_path / "tuning.json")
    file.write([kept])
    for path, used in ((file.path, chosen), (None, declared)):
        config = ReplicaConfig(device="cpu", tuning_file=path)
        backoff = Backoff(Random(0))  # noqa: S311 - of retries
        resources = make_resources(config, {"flux": FAMILIES["flux"]}, SystemClock(), backoff)
        assert resources.step_cache(endpoint, {"acceleration": "regular"}) == used
        assert resources.step_cache(endpoint, {"acceleration": "none"}) is None


def test_without_a_file_the_recipe_holds() -> None:
    assert TunedRecipes().find(NAME, ENDPOINT) is None


def test_a_file_that_cannot_be_read_is_reported_and_ignored(
    tmp_path: Path, caplog: CapturedLogs
) -> None:
    file = TuningFile(tmp_path / "tuning.json")
    assert file.read() == ()
    file.path.write_text("{")
    assert file.read() == ()
    assert str(file.path) in caplog.text
    file.write([tuning()])
    assert file.read() == (tuning(),)
    assert [path.name for path in tmp_path.iterdir()] == ["tuning.json"]


def test_of_one_subject_one_tuning_is_kept(tmp_path: Path) -> None:
    file = TuningFile(tmp_path / "tuning.json")
    for candidate in (tuning(), tuning(name="other"), replace(tuning(), quality=0.5)):
        file.keep(candidate)
    assert [(entry.model, entry.quality) for entry in file.read()] == [("other", 0.9), (NAME, 0.5)]


def test_a_replica_loads_the_tuned_variant(tmp_path: Path) -> None:
    """Through the real resources: float8 storage, which the catalogue does not ask for."""
    folder = save_tiny_flux(tmp_path / "flux")
    endpoint = Endpoint("e", "flux", Weights(str(tmp_path / "flux")), "s")
    del folder
    machine = machine_of(accelerator_for("cpu"))
    name = weights_name(endpoint, None)
    tuned = replace(
        tuning(name, machine, revision_of(endpoint.weights)),
        measurements=(
            Measurement("plain", Recipe(0, "float32"), generation_s=2.0),
            Measurement("float8", Recipe(0, "float8"), generation_s=1.0),
        ),
    )
    file = TuningFile(tmp_path / "tuning.json")
    file.write([tuned])
    config = ReplicaConfig(device="cpu", tuning_file=file.path)
    backoff = Backoff(Random(0))  # noqa: S311 - of retries
    resources = make_resources(config, {"flux": FAMILIES["flux"]}, SystemClock(), backoff)
    resources.engine.start()
    try:
        family = load_families({"flux": FAMILIES["flux"]})["flux"]
        handle = resources.acquire(family, endpoint)
        pipeline = handle.future.result(120)
        stored = {str(parameter.dtype) for parameter in pipeline.transformer.parameters()}
        assert "torch.float8_e4m3fn" in stored
        assert "float8" in resources.weights_by_endpoint["e"]
    finally:
        resources.residency.close()
        resources.engine.close(5)


def test_a_tuning_holds_for_its_files_alone(tmp_path: Path) -> None:
    file = tmp_path / "tuned.safetensors"
    of_hub = Weights("owner/name", "a" * 40)
    (tmp_path / "base").mkdir()
    (tmp_path / "base/model_index.json").write_text("{}")
    of_folder = Weights(str(tmp_path / "base"))
    for base in (of_hub, of_folder):
        with_file = replace(base, checkpoint=str(file), components=("unet",))
        revisions = {revision_of(base)}
        for content in ("one", "two and three"):
            file.write_text(content)
            revisions.add(revision_of(with_file))
        assert len(revisions) == 3
