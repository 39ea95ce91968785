"""Endpoints that `darkroom models add` derives: a request to each, with tiny random weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from deployments.engine.engine import Engine
from serve_app.cli.inspection.pipeline_call import RESULTS
from serve_app.cli.inspection.proposal import propose
from serve_app.domain.errors import Misconfigured
from tests.cli.inspection.open_endpoints import OPEN_ENDPOINTS
from tests.engine.conformance import classes
from tests.engine.conformance.case import WISHES, Case
from tests.engine.conformance.derived import NOT_TRIED, call_of, refusal, run_request
from tests.engine.conformance.zoo import cases

pytestmark = [pytest.mark.engine, pytest.mark.filterwarnings("ignore")]

OTHER_WEIGHTS = {
    "fal-ai/wan-flf2v": "its case has no place for a last frame",
    "fal-ai/wan/v2.2-a14b/image-to-video/lora": "its case has one expert",
    "fal-ai/wan/v2.2-a14b/text-to-video/lora": "its case has one expert",
    "fal-ai/wan/v2.2-a14b/video-to-video": "its case has one expert",
}
IDS: Mapping[str, Sequence[str]] = {
    name: [
        i
        for i, class_name in OPEN_ENDPOINTS.items()
        if class_name == name and i not in OTHER_WEIGHTS
    ]
    for name in OPEN_ENDPOINTS.values()
}
"""Class → endpoints of fal's that it runs."""

REASONS = (
    "returns neither images, videos, audio nor text, but ",
    "cannot be served without code: ",
    "takes no duration by a known name",
    "its blocks are of its repository",
)
"""Beginnings of reasons not to serve a class, besides an argument that no request can give."""


def deliver(case: Case) -> None:
    """Assert that the endpoint of the class delivers an output of the right kind and size, or that
    the class is refused."""
    if (why := refusal(case)) is not None:
        assert any(reason in why for reason in REASONS) or "needs " in why
        return
    pipeline = case.build()
    with Engine(pipeline, device="cpu", threads=1) as engine:
        for endpoint_id in ("", *IDS.get(case.name, ())):
            check(case, run_request(case, pipeline, engine, endpoint_id).output)


def check(case: Case, output: Mapping[str, Any]) -> None:
    arguments = case.arguments(WISHES[0])
    if "output" in output:
        assert isinstance(output["output"], str)
        assert output["output"]
        return
    files: list[Any] = output.get("images") or [
        entry for entry in output.values() if isinstance(entry, Mapping) and "artifact" in entry
    ]
    assert len(files) >= 1
    assert len(files) == arguments.get("layers", len(files))
    assert all(file["file_size"] > 0 for file in files)
    if arguments.get("width") and "audio" not in output:
        assert {(e["width"], e["height"]) for e in files} == {
            (arguments["width"], arguments["height"])
        }


@pytest.mark.variants(1)
def test_a_derived_endpoint_delivers_what_a_request_asks_for(derivable: Case) -> None:
    deliver(derivable)


@pytest.mark.long
@pytest.mark.parametrize("title", sorted(RESULTS))
def test_an_endpoint_of_maps_or_meshes_delivers_a_file_for_each(title: str) -> None:
    deliver(cases()[title])


@pytest.mark.long
@pytest.mark.parametrize("title", sorted({e.name for e in cases().values()} - NOT_TRIED.keys()))
def test_every_derived_endpoint_does(title: str) -> None:
    deliver(cases()[title])


@pytest.mark.long
def test_of_all_classes_most_are_served_by_one_command_and_the_others_refused_with_a_reason() -> (
    None
):
    count, refused = 0, list[str]()
    for name, kind in classes.pipeline_classes().items():
        if hasattr(kind, "_backends"):  # a placeholder for what cannot be imported here
            continue
        try:
            propose(call_of(name), lambda _: {})
        except Misconfigured as error:
            refused.append(error.message)
        else:
            count += 1
    assert count >= 310
    assert all(
        "needs " in sentence or any(why in sentence for why in REASONS) for sentence in refused
    ), refused
