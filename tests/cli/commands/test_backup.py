"""``darkroom backup``, ``restore`` and ``fsck``, as typed, on data directories of their own."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from serve_app.embedded_postgres.embedded import EmbeddedPostgres
from serve_app.embedded_postgres.files import ClusterFiles
from serve_app.postgres.database import Database
from serve_app.postgres.file_places import record_places
from serve_app.queue.store.migrations import migrate
from tests.queue.database import until_stopped

pytestmark = pytest.mark.long

KEY = "u/0123456789abcdef012345/a.png"
UPLOAD = """
INSERT INTO uploads (key, id, tenant, media_type, state, size)
VALUES (%(key)s, 'x', 'ann', 'image/png', 'whole', 7)
"""


def darkroom(*words: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "serve_app.cli", *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={**os.environ, **environment},  # noqa: TID251 a child's
    )


async def installation(data_dir: Path, places: Mapping[str, str] | None = None) -> None:
    """An installation with one upload, that does not run. ``places``: recorded ones of files."""
    postgres = EmbeddedPostgres(data_dir, grace_s=0.5)
    conninfo = await postgres.start()
    await migrate(conninfo)
    database = Database(conninfo, connections=1)
    await database.start()
    await database.rows(UPLOAD, {"key": KEY})
    await record_places(database, places or {})
    await database.aclose()
    await postgres.aclose()
    path = data_dir / "artifacts" / KEY
    path.parent.mkdir(parents=True)
    path.write_bytes(b"content")
    (data_dir / "api_key").write_text("id:secret")


async def test_an_installation_is_backed_up_checked_and_restored_by_commands(
    tmp_path: Path,
) -> None:
    data_dir, other, folder = tmp_path / "data", tmp_path / "other", tmp_path / "monday"
    await installation(data_dir)
    backed_up = darkroom("backup", folder, "--data-dir", data_dir)
    assert backed_up.returncode == 0, backed_up.stderr
    assert "and 1 file (7 B)" in backed_up.stdout
    assert "Only its owner can read it" in backed_up.stderr
    other.mkdir()
    with (other / "serve.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        in_use = darkroom("restore", folder, "--data-dir", other)
    assert (in_use.returncode, in_use.stderr.count("Another Darkroom (pid unknown)")) == (1, 1)
    restored = darkroom("restore", folder, "--data-dir", other, "--json")
    assert restored.returncode == 0, restored.stderr
    assert json.loads(restored.stdout)["requeued"] == 0
    assert (other / "artifacts" / KEY).read_bytes() == b"content"
    assert (other / "api_key").read_text() == "id:secret"
    clean = darkroom("fsck", "--data-dir", other)
    assert (clean.returncode, clean.stdout) == (
        0,
        "1 files have their rows. No problems found.\n",
    )
    (other / "artifacts" / KEY).unlink()
    broken = darkroom("fsck", "--data-dir", other, "--json")
    assert broken.returncode == 1, broken.stderr
    finding, totals = map(json.loads, broken.stdout.splitlines())
    assert finding == {"problem": "missing", "key": KEY, "size": 7}
    assert totals["problems"] == 1
    again = darkroom("restore", folder, "--data-dir", other)
    assert (again.returncode, again.stderr.count("--replace")) == (1, 1)
    for directory in (data_dir, other):
        until_stopped(ClusterFiles(directory))


async def test_settings_of_the_configuration_file_are_followed_and_needed(tmp_path: Path) -> None:
    data_dir, file = tmp_path / "data", tmp_path / "darkroom.yaml"
    await installation(data_dir, {"": "the bucket my-bucket at AWS"})
    arguments = {"data_dir": str(data_dir), "s3_bucket": "my-bucket"}
    application = {"import_path": "serve_app.app:build", "args": arguments}
    file.write_text(json.dumps({"applications": [application]}))  # which is YAML too
    for words in (["backup", tmp_path / "monday"], ["fsck", "--mend"]):
        refused = darkroom(*words, "--data-dir", data_dir)
        assert refused.returncode == 1
        assert "the bucket my-bucket at AWS, and these settings name the data" in refused.stderr
    assert not (tmp_path / "monday").exists()
    forced = darkroom("fsck", "--data-dir", data_dir, "--other-storage")
    assert (forced.returncode, forced.stdout.count("1 files have their rows")) == (0, 1)
    del arguments["s3_bucket"]
    arguments["s3_prefix"] = "darkroom/"
    file.write_text(json.dumps({"applications": [application]}))
    followed = darkroom("fsck", "--config", file)
    assert "DARKROOM_S3_PREFIX" in followed.stderr
    until_stopped(ClusterFiles(data_dir))


def test_a_directory_without_a_darkroom_is_a_sentence(tmp_path: Path) -> None:
    for words in (["backup", tmp_path / "monday"], ["fsck"]):
        result = darkroom(*words, "--data-dir", tmp_path / "nothing")
        assert result.returncode == 1
        assert "There is no Darkroom in" in result.stderr
    assert not (tmp_path / "monday").exists()


def test_a_server_that_is_down_is_a_sentence(tmp_path: Path) -> None:
    url = "postgresql://nobody@127.0.0.1:1/darkroom"
    result = darkroom("fsck", "--data-dir", tmp_path, DARKROOM_DATABASE_URL=url)
    assert result.returncode == 1
    assert result.stderr.startswith("darkroom: PostgreSQL does not answer: connection failed")
    assert "Check that the server runs" in result.stderr


def test_a_folder_that_is_no_backup_creates_nothing(tmp_path: Path) -> None:
    result = darkroom("restore", tmp_path, "--data-dir", tmp_path / "data")
    assert result.returncode == 1
    assert "is not a backup" in result.stderr
    assert not (tmp_path / "data").exists()
