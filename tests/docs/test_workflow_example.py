"""The workflow of the documentation fits the built-in endpoints."""

from __future__ import annotations

import yaml

from serve_app.catalog.workflows.check import check
from serve_app.catalog.workflows.reader import read
from tests.docs.pages import DOCS, block
from tests.ingress.house import OTHERS


def test_the_example_is_a_workflow_of_served_endpoints() -> None:
    given = yaml.safe_load(block(DOCS / "how-to" / "run-a-workflow.md", "yaml"))
    written = read({"name": "poster", **given})
    check(written, OTHERS.get)
    assert [*written.workflow.nodes] == ["draw", "redraw"]
    assert written.input_schema["required"] == ["idea"]
