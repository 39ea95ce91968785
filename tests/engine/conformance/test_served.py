"""Every class, from a folder to a file: added by one command, and asked over HTTP."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.cluster.darkroom import Darkroom
from tests.engine.conformance.derived import NOT_TRIED, refusal
from tests.engine.conformance.served import add_and_ask, deliver
from tests.engine.conformance.zoo import cases

pytestmark = [pytest.mark.long, pytest.mark.engine, pytest.mark.filterwarnings("ignore")]

POOL = {"families": ["generic", "video", "audio"], "slots": 1, "num_cpus": 0.1}
ONE_SIZE = "its tiny denoiser makes one size, which is smaller than a request may ask for"
NOT_SERVED: Mapping[str, str] = {
    "FluxControlNetPipeline, two ControlNets": "diffusers cannot save the two in one folder",
    "HunyuanDiTControlNetPipeline": ONE_SIZE,
    "HunyuanDiTPAGPipeline": ONE_SIZE,
    "HunyuanDiTPipeline": ONE_SIZE,
    "HunyuanVideo15ModularPipeline, from an image": ONE_SIZE,
    "IFImg2ImgSuperResolutionPipeline": "diffusers insists on components that the tiny one lacks",
    "MotifVideoImage2VideoPipeline": "its tiny text encoder gets its eyes only after it is built",
}
"""Cases for which it cannot be tried."""

TITLES = sorted(
    title
    for title, case in cases().items()
    if case.name not in NOT_TRIED and title not in NOT_SERVED
)


@pytest.fixture(scope="module")
def darkroom(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Darkroom]:
    darkroom = Darkroom(tmp_path_factory.mktemp("served") / "data", pools={"studio": POOL})
    try:
        yield darkroom.start()
    finally:
        darkroom.clear_away()


@pytest.mark.timeout(900)
@pytest.mark.parametrize("title", TITLES)
def test_a_folder_is_served_by_one_command(title: str, darkroom: Darkroom, tmp_path: Path) -> None:
    case = cases()[title]
    if case.name.startswith("Cosmos"):
        pytest.importorskip("cosmos_guardrail")
    if (why := refusal(case)) is not None:
        pytest.skip(why)
    assert deliver(darkroom, case, tmp_path / case.name)


@pytest.mark.parametrize("title", [title for title in TITLES if title.endswith("CombinedPipeline")])
def test_two_stages_are_served_from_the_repository_of_each(
    title: str, darkroom: Darkroom, tmp_path: Path
) -> None:
    case = cases()[title]
    both = case.build()
    both.decoder_pipe.save_pretrained(tmp_path / "decoder")
    both.prior_pipe.save_pretrained(tmp_path / "prior")
    parts = ("--weights", str(tmp_path / "decoder"), "--part", f"prior={tmp_path / 'prior'}")
    refused = darkroom.command("models", "add", "house/x", *parts[:2])
    assert f"--pipeline {case.name} --part prior=" in refused.stderr
    assert add_and_ask(darkroom, case, *parts, "--pipeline", case.name)
