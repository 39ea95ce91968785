from __future__ import annotations

from serve_app.ingress.announcement import lines
from tests.ingress.house import CATALOG


def test_the_start_tells_demos_from_others_and_why_something_is_not_served() -> None:
    said = {
        line.split()[1 if line.startswith("Serving") else 2].rstrip("."): line
        for line in lines(CATALOG)
    }
    assert said.keys() == {entry.endpoint.id for entry in CATALOG}
    assert said["fal-ai/flux/schnell"].endswith("(Darkroom's own demo model, not the real one).")
    assert said["test/probe"] == "Serving test/probe."
    assert said["test/unserved"].startswith("Not serving test/unserved. It has no demo model")
