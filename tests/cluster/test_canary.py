"""A canary with other code on a real Ray: it returns when that code fails, and no request does."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.cluster.changing.conftest import probe_pool
from tests.cluster.darkroom import Darkroom, eventually

pytestmark = [pytest.mark.cluster, pytest.mark.long, pytest.mark.timeout(900)]

TESTS = Path(__file__).parents[1]


def other_code(folder: Path) -> Path:
    """The probe's code, changed so that each of its requests raises an exception."""
    package = folder / "tests"
    shutil.copytree(TESTS / "fakes", package / "fakes")
    shutil.copy(TESTS / "__init__.py", package)
    family = package / "fakes" / "family.py"
    family.write_text(
        family.read_text().replace(
            "        sleep_s = float(",
            '        raise ValueError("other code")\n        sleep_s = float(',
        )
    )
    return folder


def test_a_canary_whose_code_fails_returns_and_all_requests_succeed(tmp_path: Path) -> None:
    code = other_code(tmp_path / "next")
    darkroom = Darkroom(tmp_path / "data")
    canary = {"canary_of": "studio", "code": f"local://{code}", "slots": 1}
    try:
        darkroom.configure(pools={"studio": probe_pool(1, slots=3), "next": canary})
        darkroom.start()
        darkroom.all_ready(2)
        ids: list[str] = []

        def returned() -> bool:
            ids.append(darkroom.submit(steps=4, step_ms=50))
            return bool(darkroom.http.get("/v1/status").json()["pools"]["next"]["returned"])

        eventually(returned, "the canary has returned")
        requests = [darkroom.in_state(request_id, "succeeded", "failed") for request_id in ids]
        assert {request["state"] for request in requests} == {"succeeded"}
        assert sum(request["failures"] for request in requests) >= 3
        eventually(lambda: not darkroom.replicas("next"), "it has no replica")
        output = darkroom.command("status").stdout
        assert "Canary next of studio: returned because it fails more often" in output
        darkroom.configure(pools={"studio": probe_pool(1, slots=3)})
        eventually(
            lambda: "next" not in darkroom.http.get("/v1/status").json()["pools"], "it is gone"
        )
    finally:
        darkroom.clear_away()
