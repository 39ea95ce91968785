"""``darkroom tenants export`` and ``delete`` as typed by a user, behind real HTTP."""

import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from serve_app.cli.administration.tenants import deletion_text
from serve_app.cli.main import main
from tests.wire.served import Address, served


@pytest.fixture(scope="module")
def address() -> Iterator[Address]:
    with served(replica=False) as address:
        yield address


@pytest.fixture
def darkroom(address: Address, tmp_path: Path) -> Any:
    (tmp_path / "run.json").write_text(json.dumps({"url": address.url}))
    (tmp_path / "api_key").write_text(address.key)

    def run(*words: str, fails: bool = False, typed: str = "") -> Result:
        given = [*words, "--data-dir", str(tmp_path)]
        result = CliRunner().invoke(main, given, input=typed)
        assert (result.exit_code != 0) == fails, result.output
        return result

    return run


def test_an_export_is_a_whole_archive_in_a_new_file(darkroom: Any, tmp_path: Path) -> None:
    out = tmp_path / "default.zip"
    assert f"files are in {out}" in darkroom("tenants", "export", "default", "-o", str(out)).stdout
    assert zipfile.ZipFile(out).namelist()[-1] == "export.json"
    again = darkroom("tenants", "export", "default", "-o", str(out), fails=True)
    assert "exists" in again.stderr
    other = tmp_path / "nobody.zip"
    assert (
        "no tenant" in darkroom("tenants", "export", "nobody", "-o", str(other), fails=True).stderr
    )
    assert [each.name for each in tmp_path.glob("*.zip")] == ["default.zip"]
    assert not [*tmp_path.glob(".*.part")]


def test_a_deletion_asks_first_and_shows_what_is_left(darkroom: Any) -> None:
    darkroom("tenants", "create", "studio-c")
    assert "Aborted" in darkroom("tenants", "delete", "studio-c", typed="n\n", fails=True).stderr
    begun = darkroom("tenants", "delete", "studio-c", "--yes").stdout
    assert begun == (
        "studio-c is disabled and is being deleted. Left: 0 requests, 0 uploads, 0 usage lines, "
        "0 keys.\n"
    )
    assert darkroom("tenants", "deletion", "studio-c").stdout == begun
    assert (
        "cannot delete its own" in darkroom("tenants", "delete", "default", "-y", fails=True).stderr
    )


def test_the_end_of_a_deletion_says_what_is_kept() -> None:
    ended = {"tenant": "a", "ended_at": "2026-05-01T12:00:00Z", "usage_kept_as": "deleted:a:x"}
    assert deletion_text(ended) == (
        "a was deleted at 2026-05-01T12:00:00. Sums of its usage are kept as deleted:a:x."
    )
