"""Card of a request to a workflow."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import expect

from serve_app.catalog.workflows.entry import definition_of, workflow_entry
from serve_app.catalog.workflows.reader import read
from tests.ingress.house import CATALOG
from tests.page.darkroom import PageDarkroom, page_darkroom
from tests.page.reader import FLUX, PROBE, Reader

FLOW: dict[str, Any] = {
    "name": "flow",
    "input": {"prompt": {"type": "string"}},
    "steps": {
        "first": {"app": PROBE, "input": {"echo": "$input.prompt"}},
        "second": {"app": FLUX, "input": {"prompt": "$first.echo"}},
    },
    "output": {"images": "$second.images"},
}


@pytest.fixture
def installation() -> Iterator[PageDarkroom]:
    flow = workflow_entry("default", "flow", definition_of(read(FLOW)), public=True, catalog=None)
    documented = CATALOG.with_private([flow]).of_tenant("default")
    with page_darkroom(documented=documented) as darkroom:
        yield darkroom


def test_it_says_how_many_steps_are_done_and_why_one_waits(reader: Reader) -> None:
    darkroom, calls = reader.darkroom, reader.page.request
    assert isinstance(darkroom, PageDarkroom)
    headers = {"Authorization": f"Key {darkroom.key}"}
    answer = calls.post(f"{darkroom.url}/v1/workflows", headers=headers, data=FLOW)
    assert answer.ok, answer.text()
    endpoint = f"{darkroom.url}/v1/endpoints/{FLUX}"
    assert calls.put(f"{endpoint}/drain", headers=headers).ok
    reader.page.reload()
    reader.choose(answer.json()["endpoint_id"])
    card = reader.generate("a hill")
    darkroom.advance_workflows()
    expect(card).to_contain_text("1 of 2 steps are done.")
    expect(card.get_by_role("progressbar")).to_have_attribute("aria-valuenow", "50")
    darkroom.advance_workflows()
    expect(card).to_contain_text(f"second: {FLUX} accepts no new requests")
    assert calls.put(f"{endpoint}/pause", headers=headers).ok
    darkroom.advance_workflows()
    expect(card).to_contain_text("second: Next in line. An operator has paused this model.")
