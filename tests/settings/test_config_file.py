"""``darkroom serve --config`` accepts the same file as ``serve deploy``."""

from pathlib import Path

import pytest

from serve_app.domain.errors import Misconfigured
from serve_app.settings.config_file import read

GOOD = """
http_options:
  host: 0.0.0.0
  port: 8080
applications:
  - name: other
    import_path: shop.app:build
  - name: darkroom
    import_path: serve_app.app:build
    args:
      demo: true
      pools:
        studio: {families: [flux], slots: 3}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "darkroom.yaml"


def test_arguments_and_address_are_those_of_serve_deploy(file: Path) -> None:
    file.write_text(GOOD)
    read_file = read(file)
    assert read_file.arguments == {
        "demo": True,
        "pools": {"studio": {"families": ["flux"], "slots": 3}},
    }
    assert (read_file.host, read_file.port) == ("0.0.0.0", 8080)  # noqa: S104 read, not bound


def test_address_and_arguments_may_be_left_out(file: Path) -> None:
    file.write_text("applications: [{name: darkroom, import_path: 'serve_app.app:build'}]")
    read_file = read(file)
    assert (read_file.arguments, read_file.host, read_file.port) == ({}, None, None)


@pytest.mark.parametrize(
    ("content", "pattern"),
    [
        ("applications:\n  - name: [", r"darkroom\.yaml, line 2 is not YAML"),
        ("applications: 2026-13-45", r"darkroom\.yaml is not YAML: month must be in 1\.\.12"),
        ("- a", r"darkroom\.yaml should be a mapping, not list"),
        ("pools: {}", "no list of `applications`"),
        ("applications: [1]", "An application of .* should be a mapping, not int"),
        ("applications: [{import_path: 'shop.app:build'}]", "it has 0"),
        (
            "applications: [{import_path: 'serve_app.app:build', args: [1]}]",
            "args of .* should be a mapping",
        ),
        (GOOD.replace("8080", "'8080'"), "http_options.port of .* a number from 1 to 65535"),
        (GOOD.replace("8080", "99999"), "http_options.port of .* a number from 1 to 65535"),
        (GOOD.replace("8080", "0"), "http_options.port of .* a number from 1 to 65535"),
        (GOOD.replace("8080", "true"), "http_options.port of .* a number from 1 to 65535"),
    ],
)
def test_what_is_wrong_with_it_is_said(file: Path, content: str, pattern: str) -> None:
    file.write_text(content)
    with pytest.raises(Misconfigured, match=pattern):
        read(file)


def test_a_file_that_is_not_there_is_named(file: Path) -> None:
    with pytest.raises(Misconfigured, match="cannot be read"):
        read(file)
