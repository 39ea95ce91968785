"""Python packages that diffusers needs for a pipeline, and that are not installed."""

from __future__ import annotations

from pathlib import Path

import pytest

from serve_app.cli.inspection.packages import missing_packages


def test_a_class_whose_stand_in_raises_needs_the_package_until_it_is_installed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert missing_packages("CosmosTextToWorldPipeline", {}) == ["cosmos_guardrail"]
    (tmp_path / "cosmos_guardrail.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    assert missing_packages("CosmosTextToWorldPipeline", {}) == []


def test_a_class_that_diffusers_exports_as_a_dummy_needs_what_the_dummy_names() -> None:
    assert missing_packages("OnnxStableDiffusionPipeline", {}) == ["onnxruntime"]


def test_so_does_a_component() -> None:
    index = {"scheduler": ["diffusers", "OnnxRuntimeModel"], "vae": [None, None]}
    assert missing_packages("FluxPipeline", index) == ["onnxruntime"]


@pytest.mark.parametrize("name", ["FluxPipeline", "WanPipeline", "KolorsPipeline", "XPipeline"])
def test_what_darkroom_brings_is_not_named(name: str) -> None:
    assert missing_packages(name, {}) == []
