"""Name of each endpoint's input field for the file format."""

from pathlib import Path

import pytest

from serve_app.catalog.catalog import load
from serve_app.cli.commands.generate_options import format_field_in
from serve_app.ingress.app import create_app

CATALOG = load(None, demo=False, demo_dir=Path("/nowhere"))


@pytest.mark.parametrize(
    ("endpoint", "name"),
    [
        ("fal-ai/flux/schnell", "output_format"),
        ("fal-ai/fast-sdxl/inpainting", "format"),
        ("fal-ai/flux-2/klein/realtime", None),
    ],
)
def test_the_schema_names_the_field(endpoint: str, name: str | None) -> None:
    document = create_app().state.document
    description = document.of_endpoint(CATALOG.listed(endpoint), "http://here")
    assert format_field_in(endpoint, description) == name
