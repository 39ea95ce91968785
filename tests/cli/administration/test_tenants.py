"""``darkroom tenants export`` and ``delete`` as typed by a user, behind real HTTP."""

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from serve_app.cli.administration.tenants import deletion_text


def test_an_export_is_a_whole_archive_in_a_new_file(darkroom: Any, tmp_path: Path) -> None:
    out = tmp_path / "default.zip"
    assert f"files are in {out}" in darkroom("tenants", "export", "default", "-o", str(out)).stdout
    assert zipfile.ZipFile(out).namelist()[-1] == "export.json"
    again = darkroom("tenants", "export", "default", "-o", str(out), fails=True)
    assert "exists" in again.stderr
    nowhere = darkroom("tenants", "export", "default", "-o", str(tmp_path / "a" / "b"), fails=True)
    assert "cannot be written: No such file or directory" in nowhere.stderr
    other = tmp_path / "nobody.zip"
    assert (
        "no tenant" in darkroom("tenants", "export", "nobody", "-o", str(other), fails=True).stderr
    )
    assert [path.name for path in tmp_path.glob("*.zip")] == ["default.zip"]
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


@pytest.mark.parametrize(
    ("tenant", "words"),
    [
        ("d1", ("tenants", "delete", "-y", "d1#old")),
        ("d2", ("tenants", "delete", "-y", "d2?old")),
        ("d3", ("tenants", "disable", "d3/disable?")),
        ("d4", ("keys", "revoke", "../tenants/d4")),
        ("d5", ("requests", "delete", "../tenants/d5")),
    ],
)
def test_a_mistyped_name_is_not_that_of_another_tenant(
    darkroom: Any, tenant: str, words: tuple[str, ...]
) -> None:
    darkroom("tenants", "create", tenant)
    darkroom(*words, fails=True)
    shown = json.loads(darkroom("tenants", "show", tenant, "--json").stdout)
    assert (shown["tenant"], shown["disabled_at"]) == (tenant, None)


def test_the_end_of_a_deletion_says_what_is_kept() -> None:
    ended = {"tenant": "a", "ended_at": "2026-05-01T12:00:00Z", "usage_kept_as": "deleted:a:x"}
    assert deletion_text(ended) == (
        "a was deleted at 2026-05-01T12:00:00. The totals of its usage are kept as deleted:a:x."
    )
