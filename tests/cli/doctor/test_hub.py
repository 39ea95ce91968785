"""Check of the hub where its name server does not answer."""

from __future__ import annotations

import socket
import threading

import pytest

from serve_app.cli.doctor.checks import account_of
from serve_app.domain.errors import Misconfigured
from weights.hub import Hub


def test_a_hub_whose_name_is_never_found_is_named_after_the_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ended = threading.Event()

    def look_up(*_: object, **__: object) -> None:
        ended.wait(60)
        raise OSError("the look-up was given up")

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    try:
        with pytest.raises(Misconfigured, match="does not answer within"):
            account_of(Hub("http://hub.example", tries=1), limit_s=0.2)
    finally:
        ended.set()
