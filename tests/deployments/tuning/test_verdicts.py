"""Verdicts of the benchmark: what is read, and which files are refused with what to do."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu.results import FILE, Results
from benchmarks.gpu.verdicts import verdicts
from deployments.replica.tuned import Machine
from deployments.tuning.variants import BENCHMARKED
from deployments.tuning.verdicts import Verdicts, read_verdicts
from serve_app.domain.errors import Misconfigured
from tests.deployments.tuning.results import SLOW, results, write_results

H200 = Machine("NVIDIA H200", "580.1", "2.11.0+cu130", "0.42.1")


def test_switches_that_are_off_are_read_with_their_reasons(tmp_path: Path) -> None:
    path = write_results(tmp_path, H200, compile="off", graphs="on", attention="undecided")
    assert read_verdicts(path, H200).off == {"compile": SLOW}


def test_switches_that_this_version_does_not_know_are_named_and_not_off(tmp_path: Path) -> None:
    path = write_results(tmp_path, H200, compile="off", newer="off")
    verdicts = read_verdicts(path, H200)
    assert verdicts.off == {"compile": SLOW}
    assert verdicts.unknown == ("newer",)


def test_another_driver_or_diffusers_does_not_matter(tmp_path: Path) -> None:
    path = write_results(tmp_path, H200, compile="off")
    assert read_verdicts(path, replace(H200, driver="581.0", diffusers="0.43")).off


def test_torch_whose_package_does_not_name_its_cuda_is_the_same(tmp_path: Path) -> None:
    """``torch.__version__`` names the CUDA of a build, and the package of the same build on the
    index of Python does not."""
    path = write_results(tmp_path, H200, compile="off")
    assert read_verdicts(path, replace(H200, torch="2.11.0")).off


@pytest.mark.parametrize(
    ("here", "named"),
    [
        (replace(H200, device="NVIDIA H100"), ("NVIDIA H200", "NVIDIA H100")),
        (replace(H200, torch="2.12.0+cu130"), ("torch 2.11.0+cu130", "torch 2.12.0+cu130")),
        (replace(H200, torch="2.11.0+cu126"), ("torch 2.11.0+cu130", "torch 2.11.0+cu126")),
    ],
)
def test_verdicts_of_another_card_or_torch_are_refused(
    tmp_path: Path, here: Machine, named: tuple[str, str]
) -> None:
    path = write_results(tmp_path, H200, compile="off")
    with pytest.raises(Misconfigured) as refused:
        read_verdicts(path, here)
    for part in (str(path), *named, "Run `python -m benchmarks.gpu --out DIR` on this machine"):
        assert part in refused.value.message


def damage_results(place: str, value: Any) -> str:
    content = results(H200, compile="off")
    *parents, last = place.split(".")
    at: Any = content
    for key in parents:
        at = at[key]
    if value is None:
        del at[last]
    else:
        at[last] = value
    return json.dumps(content)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "Invalid JSON"),
        ('{"machine": {"card"', "Invalid JSON"),
        ("[]", "Input should be an object"),
        (damage_results("machine.card", None), "machine.card: Field required"),
        (damage_results("machine.torch", 2), "machine.torch: Input should be a valid string"),
        (damage_results("verdicts", None), "verdicts: Field required"),
        (damage_results("verdicts.compile", "off"), "verdicts.compile: Input should be an object"),
        (
            damage_results("verdicts.compile.reason", None),
            "verdicts.compile.reason: Field required",
        ),
        (
            damage_results("verdicts.compile.verdict", "maybe"),
            "verdicts.compile.verdict: Input should be 'on', 'off' or 'undecided'",
        ),
    ],
)
def test_a_file_of_another_shape_is_named_with_its_problem(
    tmp_path: Path, text: str, problem: str
) -> None:
    path = tmp_path / "results.json"
    path.write_text(text)
    with pytest.raises(Misconfigured) as refused:
        read_verdicts(path, H200)
    assert str(path) in refused.value.message
    assert problem in refused.value.message
    assert "`python -m benchmarks.gpu --out DIR` writes" in refused.value.message


@pytest.mark.parametrize("name", ["missing.json", "."])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(Misconfigured) as refused:
        read_verdicts(tmp_path / name, H200)
    assert f"{tmp_path / name} cannot be read" in refused.value.message
    assert "`python -m benchmarks.gpu --out DIR` writes" in refused.value.message


def test_what_the_benchmark_writes_is_read_and_its_switches_are_those_of_variants(
    tmp_path: Path,
) -> None:
    Results(tmp_path).describe({"card": H200.device, "torch": H200.torch, "tiny": False})
    assert read_verdicts(tmp_path / FILE, H200) == Verdicts()
    assert verdicts({}).keys() == BENCHMARKED.keys()


def test_verdicts_of_small_models_are_refused(tmp_path: Path) -> None:
    Results(tmp_path).describe({"card": H200.device, "torch": H200.torch, "tiny": True})
    with pytest.raises(Misconfigured, match="was measured with --tiny"):
        read_verdicts(tmp_path / FILE, H200)
