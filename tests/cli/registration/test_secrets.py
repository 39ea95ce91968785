"""``darkroom secrets``, with fakes behind real HTTP."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from serve_app.cli.main import main
from tests.wire.served import Address, serve


@pytest.fixture(scope="module")
def address() -> Iterator[Address]:
    with serve() as address:
        yield address


def test_a_secret_is_read_from_standard_input_and_not_shown(
    address: Address, tmp_path: Path
) -> None:
    (tmp_path / "run.json").write_text(json.dumps({"url": address.url}))
    (tmp_path / "api_key").write_text(address.key)

    def darkroom(*words: str, stdin: str | None = None) -> tuple[int, str]:
        ran = CliRunner().invoke(
            main, ["secrets", *words, "--data-dir", str(tmp_path)], input=stdin
        )
        return ran.exit_code, ran.output

    assert darkroom("set", "FAL_KEY", stdin="id:sk\n") == (0, "The secret FAL_KEY is set.\n")
    code, output = darkroom("set", "FAL_KEY", "--installation", stdin="id:sk\n")
    assert (code, output) == (0, "The secret FAL_KEY is set.\n")
    code, output = darkroom("list")
    heading, row = output.splitlines()
    assert (code, heading.split(), "sk" in output) == (
        0,
        ["NAME", "CHANGED", "AT", "CHANGED", "BY"],
        False,
    )
    assert row.startswith("FAL_KEY ")
    shown = json.loads(darkroom("list", "--installation", "--json")[1])
    assert [secret["name"] for secret in shown["secrets"]] == ["FAL_KEY"]
    assert darkroom("delete", "FAL_KEY") == (0, "The secret FAL_KEY is deleted.\n")
    assert darkroom("list") == (0, "There are no secrets.\n")
    assert darkroom("delete", "FAL_KEY")[0] == 1
    code, output = darkroom("set", "FAL_KEY", stdin="\n")
    assert (code, "is empty" in output) == (1, True)
    code, output = darkroom("list", "--installation", "--tenant", "default")
    assert (code, "either --tenant or --installation" in output) == (1, True)
