"""Outputs as Replicate's clients get them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from serve_app.catalog.catalog import CatalogEntry
from serve_app.catalog.entries import EntryBuilder
from serve_app.catalog.source import EndpointSource
from serve_app.ingress.replicate.prediction import plain, schemas

FILE = {"url": "http://here/files/a.png", "content_type": "image/png", "file_size": 3}


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ({"images": [FILE], "seed": 3}, [FILE["url"]]),
        ({"output": "text"}, "text"),
        ({"output": FILE}, FILE["url"]),
        ({"output": [FILE, FILE]}, [FILE["url"], FILE["url"]]),
        (
            {"output": {"found": [{"mask": FILE}], "score": 0.5}},
            {"found": [{"mask": FILE["url"]}], "score": 0.5},
        ),
        ({"output": None}, None),
        ({"output": 1, "more": FILE}, {"output": 1, "more": FILE}),
    ],
)
def test_what_a_model_returns_is_the_output_with_urls_of_files(
    output: dict[str, Any], expected: Any
) -> None:
    assert plain(output) == expected


def entry(output: dict[str, Any]) -> CatalogEntry:
    options = {"input_schema": {"type": "object"}, "output_schema": output}
    fields = {"family": "cog", "schema": "json", "category": "text-to-image", "options": options}
    source = EndpointSource.model_validate(fields)
    return EntryBuilder(demo=False, demo_dir=Path("/none")).build("apps/model", source)


def test_the_schema_of_a_models_output_has_urls_of_files() -> None:
    file = {"type": "object", "properties": {"url": {"type": "string"}}, "x-darkroom-file": "image"}
    output = {"type": "array", "title": "Output", "items": file}
    components = schemas(entry({"type": "object", "properties": {"output": output}}))
    uri = {"type": "string", "format": "uri"}
    assert components["Output"] == {"type": "array", "title": "Output", "items": uri}
