"""Options of inputs that families read."""

from __future__ import annotations

import pytest

from deployments.families.options import requested_loras
from serve_app.domain.errors import InvalidInput


@pytest.mark.parametrize(
    ("loras", "at"),
    [
        ("house/style", "loras"),
        (["house/style"], "loras.0.path"),
        ([{"path": "/etc/passwd"}], "loras.0.path"),
        ([{"path": "house/style", "scale": "much"}], "loras.0.scale"),
        ([{"path": "house/style", "scale": float("nan")}], "loras.0.scale"),
        ([{"path": "house/style"}] * 9, "loras"),
    ],
)
def test_what_the_open_schema_lets_through_is_refused_here(loras, at):
    with pytest.raises(InvalidInput) as caught:
        requested_loras({"loras": loras})
    assert ".".join(str(part) for part in caught.value.problems[0].loc[1:]) == at
