"""Link that opens the page signed in."""

from __future__ import annotations

import itertools
import os
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import segno
from hypothesis import given
from hypothesis import strategies as st

from serve_app.cli.serve.console import Console
from serve_app.cli.serve.sign_in_link import link_lines, network_origin, qr_code, sign_in_link

KEY = "0123456789abcdef:s3cret-_s3cret-_s3cret-_s3cret-_"


@given(st.from_regex(r"[A-Za-z0-9_-]{1,64}:[\x21-\x7e]{16,256}", fullmatch=True))
def test_the_key_is_in_the_fragment_whatever_its_characters(key: str) -> None:
    parts = urlsplit(sign_in_link("http://127.0.0.1:8000", key))
    assert (parts.netloc, parts.path, parts.query) == ("127.0.0.1:8000", "/", "")
    name, _, value = parts.fragment.partition("=")
    assert (name, unquote(value)) == ("key", key)
    assert "&" not in value


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
    found = network_origin(host, 8000, None)
    if found is not None:  # without a network there is none
        name = urlsplit(found).hostname
        assert name not in (host, "127.0.0.1", "::1", "192.0.2.1")


def test_on_loopback_there_is_one_link_and_no_code() -> None:
    (line,) = link_lines("http://127.0.0.1:8000", None, KEY)
    assert line.endswith(f"http://127.0.0.1:8000/#key={KEY}")


def test_for_other_machines_there_is_a_code_and_a_warning_without_https() -> None:
    local, remote, code, warning = link_lines("http://127.0.0.1:1", "http://10.1.2.3:1", KEY)
    assert f"http://127.0.0.1:1/#key={KEY}" in local
    assert f"http://10.1.2.3:1/#key={KEY}" in remote
    assert code == qr_code(f"http://10.1.2.3:1/#key={KEY}")
    assert "others on the network can read it" in warning
    assert len([*link_lines("http://127.0.0.1:1", "https://gpu.example.org", KEY)]) == 3


def test_the_code_has_the_modules_of_the_link_with_a_quiet_zone() -> None:
    """Half blocks: each character is two modules, one above the other, and light is drawn."""
    link = f"http://10.1.2.3:8000/#key={KEY}"
    light = {"█": (1, 1), "▀": (1, 0), "▄": (0, 1), " ": (0, 0)}
    rows = [[light[each] for each in line] for line in qr_code(link).splitlines() if line]
    modules = [[pair[half] for pair in row] for row in rows for half in (0, 1)]
    expected = [
        [1 - each for each in row] for row in segno.make(link, error="l").matrix_iter(border=2)
    ]
    assert all(a == b for a, b in itertools.zip_longest(modules[: len(expected)], expected))


def test_a_console_knows_a_terminal_from_a_file(tmp_path: Path) -> None:
    console = Console(tmp_path / "noise")
    manager, terminal = os.openpty()
    with os.fdopen(manager), os.fdopen(terminal, "w") as console.stream:
        assert console.is_terminal
    with (tmp_path / "file").open("w") as console.stream:
        assert not console.is_terminal
