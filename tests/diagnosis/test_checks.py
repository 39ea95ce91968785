"""Checks of the machine, wherever they run."""

from __future__ import annotations

from pathlib import Path

import pytest

from serve_app.diagnosis.checks import Check, data_directory, findings
from serve_app.domain.errors import Misconfigured


def test_a_check_that_fails_in_an_unexpected_way_does_not_hide_the_others() -> None:
    def broken() -> str:
        raise RuntimeError("it came apart")

    checks: list[Check] = [("broken", broken), ("whole", lambda: "fine")]
    first, second = findings(checks)
    assert (first.problem, first.message) == (True, "RuntimeError: it came apart")
    assert (second.problem, second.message) == (False, "fine")


def test_a_data_directory_that_is_not_there_is_named(tmp_path: Path) -> None:
    assert "GB free" in data_directory(tmp_path)
    with pytest.raises(Misconfigured, match="cannot be read: No such file"):
        data_directory(tmp_path / "nowhere")
