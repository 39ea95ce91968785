"""Links that open the page signed in."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import segno

from serve_app.cli.connection.installation import Installation
from serve_app.cli.connection.one_time_link import qr_code
from serve_app.cli.serve.console import Console
from serve_app.cli.serve.sign_in_link import link_lines, network_origin, print_links
from tests.wire.served import serve


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
def test_a_server_on_loopback_has_no_network_address(host: str) -> None:
    assert network_origin(host, 8000, None) is None


@pytest.mark.parametrize(
    ("host", "public_url", "origin"),
    [
        ("10.1.2.3", None, "http://10.1.2.3:8000"),
        ("fd00::7", None, "http://[fd00::7]:8000"),
        ("127.0.0.1", "https://gpu.example.org/", "https://gpu.example.org"),
    ],
)
def test_other_machines_get_the_address_that_it_listens_on_or_the_public_one(
    host: str, public_url: str | None, origin: str
) -> None:
    assert network_origin(host, 8000, public_url) == origin


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])  # noqa: S104
def test_on_all_addresses_it_is_one_of_this_machine(host: str) -> None:
    origin = network_origin(host, 8000, None)
    if origin is not None:  # without a network there is none
        name = urlsplit(origin).hostname
        assert name not in (host, "127.0.0.1", "::1", "192.0.2.1")


def offers() -> Callable[[], str]:
    """Path of a new link with each call."""
    numbers = itertools.count(1)
    return lambda: f"/#link=token-{next(numbers)}"


def test_on_loopback_there_is_one_link_and_no_code() -> None:
    line, once = link_lines("http://127.0.0.1:8000", None, offers())
    assert line.endswith("http://127.0.0.1:8000/#link=token-1")
    assert once == "The link works once, for 12 hours."


def test_other_machines_get_a_link_of_their_own_with_a_code_and_a_warning_without_https() -> None:
    local, remote, code, warning, once = link_lines(
        "http://127.0.0.1:1", "http://10.1.2.3:1", offers()
    )
    assert "http://127.0.0.1:1/#link=token-1" in local
    assert "http://10.1.2.3:1/#link=token-2" in remote
    assert code == qr_code("http://10.1.2.3:1/#link=token-2")
    assert "others on the network can read the key" in warning
    assert once.startswith("Each link works once")
    assert len([*link_lines("http://127.0.0.1:1", "https://gpu.example.org", offers())]) == 4


def test_a_key_that_may_not_make_links_does_not_make_the_start_fail(tmp_path: Path) -> None:
    with serve(replica=False) as address:
        (tmp_path / "run.json").write_text(json.dumps({"url": address.url}))
        (tmp_path / "api_key").write_text(f"dk_gone:{'0' * 64}")
        lines: list[str] = []
        print_links(Installation(tmp_path), address.url, None, lines.append)
        (line,) = lines
        assert line.startswith(f"Open {address.url} and paste an API key.")
        (tmp_path / "api_key").write_text(address.key)
        print_links(Installation(tmp_path), address.url, None, lines.append)
    assert f"{address.url}/#link=" in lines[1]


def test_the_code_has_the_modules_of_the_link_with_a_quiet_zone() -> None:
    """Half blocks: each character is two modules, one above the other, and light is drawn."""
    link = "http://10.1.2.3:8000/#link=0123456789abcdefghijklmnopqrstuv"
    light = {"█": (1, 1), "▀": (1, 0), "▄": (0, 1), " ": (0, 0)}
    rows = [[light[character] for character in line] for line in qr_code(link).splitlines() if line]
    modules = [[pair[half] for pair in row] for row in rows for half in (0, 1)]
    expected = [
        [1 - pixel for pixel in row] for row in segno.make(link, error="l").matrix_iter(border=2)
    ]
    assert all(a == b for a, b in itertools.zip_longest(modules[: len(expected)], expected))


def test_a_console_knows_a_terminal_from_a_file(tmp_path: Path) -> None:
    console = Console(tmp_path / "noise")
    manager, terminal = os.openpty()
    with os.fdopen(manager), os.fdopen(terminal, "w") as console.stream:
        assert console.is_terminal
    with (tmp_path / "file").open("w") as console.stream:
        assert not console.is_terminal
