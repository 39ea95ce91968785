"""The start log in a few lines, also with a large catalogue."""

from __future__ import annotations

from serve_app.ingress.announcement import lines
from tests.ingress.house import CATALOG


def test_the_start_tells_demos_from_others_and_where_the_reasons_are() -> None:
    real, demo, missing = lines(CATALOG)
    assert real == "Serving test/probe, test/deep/path/probe."
    assert demo.startswith("Serving fal-ai/flux/schnell")
    assert "by Darkroom's own demo model, not the real ones." in demo
    assert missing == "Not serving test/unserved: `darkroom models` says why."
