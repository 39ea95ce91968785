"""``darkroom audit`` as typed by a user, against a Darkroom with fakes behind real HTTP."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from serve_app.cli.main import main
from tests.cli.flaky_proxy import CUT, flaky_proxy
from tests.wire.served import Address


@pytest.fixture
def darkroom(address: Address, tmp_path: Path) -> Any:
    (tmp_path / "run.json").write_text(json.dumps({"url": address.url}))
    (tmp_path / "api_key").write_text(address.key)

    def run(*words: str, fails: bool = False, at: bool = True) -> Result:
        place = ("--data-dir", str(tmp_path)) if at else ()
        result = CliRunner().invoke(main, [*words, *place])
        assert (result.exit_code != 0) == fails, result.output
        return result

    run("endpoints", "pause", "test/probe")
    run("endpoints", "resume", "test/probe")
    return run


def test_an_export_is_verified_without_a_server(darkroom: Any, tmp_path: Path) -> None:
    file = tmp_path / "audit.jsonl"
    assert f"entries are in {file}" in darkroom("audit", "export", "-o", str(file)).stdout
    assert "exists" in darkroom("audit", "export", "-o", str(file), fails=True).stderr
    nowhere = darkroom("audit", "export", "-o", str(tmp_path / "a" / "b"), fails=True).stderr
    assert "cannot be written: No such file or directory" in nowhere
    output = darkroom("audit", "verify", str(file), at=False).stdout
    assert "are an unbroken chain" in output
    anchor = output.split()[-1]
    darkroom("audit", "verify", str(file), "--anchor", anchor, at=False)
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(lines).replace('"endpoint.pause"', '"endpoint.drain"', 1))
    failed = darkroom("audit", "verify", str(file), fails=True, at=False).stderr
    assert f"{file} is not an unbroken chain. Line 1: its hash does not fit" in failed
    file.write_text("".join(lines[:1]))
    cut = darkroom("audit", "verify", str(file), "--anchor", anchor, fails=True, at=False).stderr
    assert "was kept elsewhere, but is missing here" in cut


def test_the_live_log_is_verified_with_anchors_of_a_file(darkroom: Any, tmp_path: Path) -> None:
    report = json.loads(darkroom("audit", "verify", "--json").stdout)
    anchors = tmp_path / "anchors"
    anchors.write_text(f"2026-05-01T00:00:00+00:00 {report['last']}:{report['hash']}\n")
    darkroom("audit", "verify", "--anchors", str(anchors))
    anchors.write_text(f"{report['last']}:{'0' * 64}\n")
    failed = darkroom("audit", "verify", "--anchors", str(anchors), fails=True).stderr
    assert "written anew" in failed
    assert "is not SEQUENCE:HASH" in darkroom("audit", "verify", "--anchor", "x", fails=True).stderr


def test_the_export_goes_to_standard_output_by_default(darkroom: Any) -> None:
    lines = darkroom("audit", "export").stdout.splitlines()
    assert [json.loads(line)["sequence"] for line in lines] == [*range(1, len(lines) + 1)]


def test_an_export_that_ends_early_leaves_nothing_and_can_be_repeated(
    darkroom: Any, address: Address, tmp_path: Path
) -> None:
    file = tmp_path / "audit.jsonl"
    with flaky_proxy(address, lambda _, path: CUT if path.endswith("/export") else None) as proxy:
        (tmp_path / "run.json").write_text(json.dumps({"url": proxy.url}))
        ended = darkroom("audit", "export", "-o", str(file), fails=True)
    assert "ended early" in ended.stderr
    assert not [path for path in tmp_path.iterdir() if "audit" in path.name]
    (tmp_path / "run.json").write_text(json.dumps({"url": address.url}))
    darkroom("audit", "export", "-o", str(file))
