"""What `darkroom serve` hands to Ray's processes, and what it keeps from them."""

import os
import resource
from pathlib import Path

import pytest

from serve_app.cli.serve import haproxy, ray_flags
from serve_app.settings import SECRET_NAMES, Secrets


def test_ray_s_token_is_for_its_owner_only_and_another_one_at_each_start(tmp_path: Path) -> None:
    tokens = set[str]()
    for _ in range(2):
        (path,) = map(Path, ray_flags.write_token(tmp_path).values())
        assert path.stat().st_mode & 0o777 == 0o600
        tokens.add(path.read_text())
    assert [len(token) for token in tokens] == [64, 64]


def test_processes_that_are_started_inherit_no_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "own"
    own.mkdir()
    (own / "DARKROOM_S3_SECRET_ACCESS_KEY").write_text("of-a-file")
    for name in SECRET_NAMES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DARKROOM_SECRETS_DIR", str(own))
    monkeypatch.setenv("DARKROOM_DATABASE_URL", "postgresql://me:password@host/db")
    monkeypatch.setenv("DARKROOM_PROXY_SECRET", "of-the-user")
    ray_flags.hide_secrets(tmp_path / "secrets", "of-this-start")
    inherited = " ".join(os.environ.values())  # noqa: TID251 what children inherit
    assert not [word for word in ("password", "of-a-file", "of-the-user") if word in inherited]
    assert Secrets().by_name() == {  # as the ingress reads them
        "DARKROOM_DATABASE_URL": "postgresql://me:password@host/db",
        "DARKROOM_S3_SECRET_ACCESS_KEY": "of-a-file",
        "DARKROOM_PROXY_SECRET": "of-this-start",
    }
    modes = {path.stat().st_mode & 0o777 for path in (tmp_path / "secrets").iterdir()}
    assert ((tmp_path / "secrets").stat().st_mode & 0o777, modes) == (0o700, {0o600})


def test_ray_does_not_end_this_process_when_its_raylet_is_stopped(tmp_path: Path) -> None:
    """Ray looks whether this process lives, not at the parent, which may be process 1."""
    assert ray_flags.flags(tmp_path)["RAY_RAYLET_PID"] == str(os.getpid())


@pytest.mark.parametrize(
    ("hard", "most"), [(resource.RLIM_INFINITY, 16_384), (20_000, 7_600), (500, 100)]
)
def test_haproxy_accepts_no_more_connections_than_its_file_descriptors_allow(
    monkeypatch: pytest.MonkeyPatch, hard: int, most: int
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, hard))
    assert ray_flags.most_connections() == most


def test_ray_s_processes_are_started_with_docstrings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("PYTHONOPTIMIZE", *ray_flags.flags(tmp_path), "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.setenv(name, "2")  # restored after the test
    ray_flags.export(tmp_path, tmp_path, [], "secret", ("127.0.0.1", 8000))
    assert "PYTHONOPTIMIZE" not in os.environ  # noqa: TID251 what children inherit


@pytest.mark.skipif(not haproxy.available(), reason="no HAProxy for this machine")
def test_serve_listens_on_loopback_and_its_haproxy_where_darkroom_should(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "own"
    own.touch(mode=0o700)
    environment = {"RAY_SERVE_HAPROXY_BINARY_PATH": str(own)}
    monkeypatch.setattr(os, "environ", environment)
    assert ray_flags.export(tmp_path, tmp_path, [], "secret", ("::1", 8000)) == "127.0.0.1"
    script = Path(environment["RAY_SERVE_HAPROXY_BINARY_PATH"]).read_text()
    assert "::1:8000" in script
    assert f"exec {own} " in script
