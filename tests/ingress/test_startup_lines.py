"""The log at the start has few lines, also with a large catalog."""

from __future__ import annotations

from serve_app.ingress.services.served_catalog import startup_lines
from tests.ingress.house import CATALOG


def test_the_start_distinguishes_demos_from_others_and_says_where_the_reasons_are() -> None:
    real, demo, missing = startup_lines(CATALOG)
    assert (
        real == "Serving test/probe, test/generator, test/generator/stream, test/deep/path/probe."
    )
    assert demo.startswith("Serving fal-ai/flux/schnell")
    assert "by Darkroom's own demo model, not the real ones." in demo
    assert missing == "Not serving test/unserved: run `darkroom models --all` to see why."
