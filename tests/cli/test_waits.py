"""Commands that wait for something go on when the server was away for a while."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from serve_app.cli.connection import client as connection
from tests.cli.flaky_proxy import DROP, flaky_proxy
from tests.wire.served import Address

TEAPOT = 418
"""Ends the wait: no restart answers it."""


@pytest.mark.parametrize(
    ("words", "path"),
    [
        (("logs", "some-request", "--follow"), "/v1/requests/some-request"),
        (("tenants", "delete", "studio-w", "--yes", "--wait"), "/v1/tenants/studio-w/deletion"),
        (("weights", "add", "w", "a/b", "--base", "test/probe"), "/v1/weights/w"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_a_wait_goes_on_after_a_restart_of_the_server(
    darkroom: Any,
    address: Address,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...],
    path: str,
) -> None:
    monkeypatch.setattr(connection, "PAUSES_S", (0.0,))
    if words[0] == "tenants":
        darkroom("tenants", "create", "studio-w")
    answers = [502, DROP, 503, 504, TEAPOT]

    def trouble(method: str, asked: str) -> int | None:
        return answers.pop(0) if (method, asked) == ("GET", path) else None

    with flaky_proxy(address, trouble) as proxy:
        (tmp_path / "run.json").write_text(json.dumps({"url": proxy.url}))
        ended = darkroom(*words, fails=True)
    assert not answers
    assert ended.stderr.count("Trying again for up to 60 s.") == 1
    assert f"darkroom: {TEAPOT}" in ended.stderr


def test_a_command_that_does_not_wait_fails_at_once(
    darkroom: Any, address: Address, tmp_path: Path
) -> None:
    with flaky_proxy(address, lambda _method, _path: 503) as proxy:
        (tmp_path / "run.json").write_text(json.dumps({"url": proxy.url}))
        assert "Trying again" not in darkroom("logs", "some-request", fails=True).stderr
