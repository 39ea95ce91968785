"""The real outputs of the Flux family match their published schema."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from openapi_schema_validator import OAS30Validator

from deployments.engine.engine import Engine
from deployments.families.base import GenerationResult
from deployments.families.flux import FluxFamily
from serve_app.domain.artifact import UploadTicket
from serve_app.domain.outcome import Outcome, Usage
from serve_app.ingress.app import create_app
from serve_app.ingress.http.origin import file_url
from serve_app.ingress.submission.rendering import _Rendering
from tests.engine.tiny import tiny_flux
from tests.ingress.house import CATALOG, ORIGIN

pytestmark = pytest.mark.engine

SCHNELL = "fal-ai/flux/schnell"


@pytest.fixture(scope="module")
def answer() -> dict[str, Any]:
    family, endpoint = FluxFamily(), CATALOG.get(SCHNELL).endpoint
    small = replace(endpoint, options={"native_size": 32})
    parameters = {
        "prompt": "x",
        "image_size": {"width": 64, "height": 64},
        "num_inference_steps": 1,
    }
    wish = CATALOG.validate(SCHNELL, parameters).input
    with Engine(device="cpu", threads=1) as engine:
        pipeline = tiny_flux()
        engine.add("flux", pipeline)
        call = family.prepare(small, wish, pipeline, seed=7)
        result = engine.submit(pipeline="flux", **call.arguments).result(60)
    ticket = UploadTicket("r/1/1/a.jpg", "http://storage/1", "image/jpeg", 10**6)
    product = family.deliver(small, call, GenerationResult(result, 1.5, 1), (ticket,))
    artifacts = tuple(file.artifact() for file in product.files)
    outcome = Outcome(output=product.output, artifacts=artifacts, usage=Usage())
    return _Rendering(outcome, partial(file_url, ORIGIN)).render(product.output)


def checker() -> OAS30Validator:
    document = create_app().state.document.of_installation(CATALOG, ORIGIN)
    return OAS30Validator(
        {**document["components"]["schemas"]["FalAiFluxSchnellOutput"], **document}
    )


def test_it_fits(answer: dict[str, Any]) -> None:
    checker().validate(answer)
    assert answer["darkroom_demo"] is True


@pytest.mark.parametrize("name", ["images", "timings", "seed", "has_nsfw_concepts", "prompt"])
def test_what_fal_requires_is_required(answer: dict[str, Any], name: str) -> None:
    assert not checker().is_valid({key: value for key, value in answer.items() if key != name})
