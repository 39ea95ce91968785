"""A Darkroom with fakes behind real HTTP, and the command line that talks to it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from serve_app.cli.main import main
from tests.wire.served import Address, serve


@pytest.fixture(scope="module")
def address() -> Iterator[Address]:
    with serve(replica=False) as address:
        yield address


@pytest.fixture
def darkroom(address: Address, tmp_path: Path) -> Any:
    """``darkroom(*words)`` with the key of ``address``, and ``typed`` on its standard input. Fails
    unless the command succeeds, or fails with ``fails``."""
    (tmp_path / "run.json").write_text(json.dumps({"url": address.url}))
    (tmp_path / "api_key").write_text(address.key)

    def run(*words: str, fails: bool = False, typed: str | None = None) -> Result:
        arguments = [*words, "--data-dir", str(tmp_path)]
        result = CliRunner().invoke(main, arguments, input=typed)
        assert (result.exit_code != 0) == fails, result.output
        return result

    return run
