"""The name under which each endpoint takes the format of its files."""

from pathlib import Path

import pytest

from serve_app.catalog.catalog import load
from serve_app.cli.format_field import described_field
from serve_app.ingress.models import of_endpoint

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
    description = of_endpoint(CATALOG.listed(endpoint), "http://here")
    assert described_field(endpoint, description) == name
