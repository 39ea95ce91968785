"""Options that ``darkroom deploy`` has written, as executors read them."""

from __future__ import annotations

from typing import Any

import pytest

from deployments.executors.cog.executor import CogSpec
from deployments.executors.comfyui.workflow import ComfyUiWorkflow, ExposedInput
from deployments.executors.python.executor import AppSpec
from serve_app.domain.endpoint import Endpoint, Weights
from serve_app.domain.errors import Misconfigured
from serve_app.options.executors import DeployedOption

APP = {"bundle": "5e", "class": "studio:Studio", "path": "/"}
COG = {"output": {}, "bundle": "5e", "target": "predict.py:Predictor"}


def stored(family: str, options: Any) -> Endpoint:
    return Endpoint("apps/mine", family, Weights(""), "json", options=options)


def test_an_app_runs_one_request_at_once_unless_it_says_otherwise() -> None:
    spec = AppSpec.of(stored("python", {"app": {**APP, "concurrency": 0, "streams": True}}))
    assert (spec.concurrency, spec.requirements, spec.is_fal) == (1, None, False)
    layered = AppSpec.of(stored("python", {"app": {**APP, "requirements": ["a", ["b", "c"]]}}))
    assert layered.requirements == ("a", ("b", "c"))


def test_a_cog_model_is_code_or_an_address() -> None:
    assert CogSpec.of(stored("cog", {"cog": COG})).key == "5e:predict.py:Predictor"
    server = CogSpec.of(stored("cog", {"cog": {"output": {}, "url": "http://10.0.0.5:5000/"}}))
    assert server.key == "http://10.0.0.5:5000"


def test_a_workflow_is_read_as_it_is_written() -> None:
    graph = {"1": {"class_type": "Load", "inputs": {"image": ["2", 0]}}}
    workflow = ComfyUiWorkflow(graph=graph, inputs=(ExposedInput("a", "1", "image", "image"),))
    endpoint = stored("comfyui", {"comfyui": workflow.model_dump(mode="json")})
    assert ComfyUiWorkflow.of(endpoint) == workflow


@pytest.mark.parametrize(
    ("spec", "family", "options", "says"),
    [
        (AppSpec, "python", {}, "options.app.bundle: Field required"),
        (AppSpec, "python", {"app": ["a"]}, "options.app.bundle: Field required"),
        (AppSpec, "python", {"app": {**APP, "concurrency": "many"}}, "options.app.concurrency: "),
        (CogSpec, "cog", {"cog": {**COG, "mode": "sing"}}, "options.cog.mode: "),
        (CogSpec, "cog", {"cog": {"output": {}}}, "options.cog: it must have a `url`, or a "),
        (CogSpec, "cog", {"cog": {"output": {}, "url": "ftp://x"}}, "options.cog.url: it must be"),
        (ComfyUiWorkflow, "comfyui", {"comfyui": {}}, "options.comfyui.graph: Field required"),
    ],
)
def test_a_mistake_is_named_with_its_place(
    spec: type[DeployedOption], family: str, options: Any, says: str
) -> None:
    with pytest.raises(Misconfigured, match=rf"apps/mine is not usable: {says}.*`darkroom deploy`"):
        spec.of(stored(family, options))
