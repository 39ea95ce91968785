"""What a shell or a program must set so that fal's Python client talks to this Darkroom."""

from __future__ import annotations

import json

from serve_app.cli.installation import Installation


def as_json(installation: Installation) -> str:
    return json.dumps({"url": installation.url(), "key": installation.key()})


def lines(installation: Installation) -> str:
    """Lines for ``eval``: the key, and as comments the call that points fal's client here.

    fal's client has ``https`` hard-coded where it reads host names from the environment, so over
    plain HTTP the variables alone cannot do it: one call does.
    """
    url = installation.url()
    return "\n".join(
        (
            f"export FAL_KEY='{installation.key()}'",
            "# Then, in Python, before the first call:",
            "#   from serve_app import fal_plain_http",
            f"#   fal_plain_http.use({url!r})",
            "#   import fal_client",
            "#   fal_client.subscribe('fal-ai/flux/schnell', {'prompt': 'a red circle'})",
        )
    )
