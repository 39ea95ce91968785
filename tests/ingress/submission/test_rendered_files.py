"""Files in outputs, as clients see them."""

from __future__ import annotations

from serve_app.domain.outcome import Outcome
from serve_app.ingress.submission.rendering import _Rendering


def test_a_file_is_an_object_or_where_the_app_says_so_its_url_alone() -> None:
    output = {
        "audio": {"artifact": "r/1/1/a.wav", "content_type": "audio/wav"},
        "links": [{"artifact": "r/1/1/b.txt", "content_type": "text/plain", "$as": "url"}],
    }
    shown = _Rendering(Outcome(output=output), lambda key: f"http://here/{key}").render(output)
    assert shown == {
        "audio": {
            "url": "http://here/r/1/1/a.wav",
            "content_type": "audio/wav",
            "file_name": "a.wav",
        },
        "links": ["http://here/r/1/1/b.txt"],
    }
