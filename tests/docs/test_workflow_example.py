"""The workflow of the documentation fits the built-in endpoints."""

from __future__ import annotations

import yaml

from serve_app.catalog.workflows.check import check
from serve_app.catalog.workflows.reader import read
from tests.docs.pages import DOCS, blocks
from tests.ingress.house import OTHERS

PAGE = DOCS / "how-to" / "run-a-workflow.md"


def test_the_example_is_a_workflow_of_served_endpoints() -> None:
    steps, _ = blocks(PAGE, "yaml")
    definition = yaml.safe_load(steps.text)
    written = read({"name": "poster", **definition})
    check(written, OTHERS.get)
    assert [*written.workflow.nodes] == ["draw", "redraw"]
    assert written.input_schema["required"] == ["idea"]


def test_the_example_of_a_comparison_compares_two_endpoints() -> None:
    _, comparison = blocks(PAGE, "yaml")
    written = read({"name": "both", **yaml.safe_load(comparison.text)})
    assert {name: node.app for name, node in written.workflow.nodes.items()} == {
        "own": "fal-ai/flux/schnell",
        "hosted": "acme/hosted-flux",
    }
