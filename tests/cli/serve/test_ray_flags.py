"""Files that Ray writes with the umask of `darkroom serve`."""

from pathlib import Path

from serve_app.cli.serve import ray_flags


def test_ray_s_token_is_for_its_owner_only(tmp_path: Path) -> None:
    ray_flags.protect_token(tmp_path)  # there is none
    token = tmp_path / ".ray" / "auth_token"
    token.parent.mkdir()
    token.write_text("secret")
    token.chmod(0o644)
    ray_flags.protect_token(tmp_path)
    assert token.stat().st_mode & 0o777 == 0o600
