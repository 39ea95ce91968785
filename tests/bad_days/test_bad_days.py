"""Two rows of the matrix; ``scripts/bad_days`` has all."""

from __future__ import annotations

from pathlib import Path

import pytest

from serve_app.cli.serve import haproxy
from tests.bad_days.day import day
from tests.bad_days.installation import installation
from tests.bad_days.rows import ROWS

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.long,
    pytest.mark.crash,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not haproxy.available(), reason="no HAProxy for this machine"),
]

SECONDS = {"HAProxy-and-both-actors-kill": 1.0, "ingress-freeze": 10.0}
"""What was killed is away until Serve has noticed it. A frozen ingress is noticed within 9 s."""


def test_clients_that_repeat_their_calls_notice_no_dead_proxies_and_no_frozen_ingress(
    tmp_path: Path,
) -> None:
    rows = {row.name: row for row in ROWS}
    with installation(tmp_path) as place:
        for name, seconds in SECONDS.items():
            result = day(place, rows[name], seconds)
            assert result.good, result
