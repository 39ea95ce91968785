"""``darkroom batch``, with fakes behind real HTTP."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from serve_app.cli.batches.command import BatchNotDone, raise_unless_done
from serve_app.cli.connection import client as connection
from serve_app.cli.connection.whole_file import part_of
from tests.cli.flaky_proxy import DROP, flaky_proxy
from tests.ingress.house import OTHERS
from tests.wire.served import Address, serve


@pytest.fixture(scope="module")
def address() -> Iterator[Address]:
    with serve(catalog=OTHERS, batches=True) as address:
        yield address


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    return tmp_path / "prompts.jsonl"


def write(file: Path, *lines: Any) -> str:
    file.write_text("\n".join(json.dumps(line) for line in lines))
    return str(file)


def number_of_batches(address: Address) -> int:
    headers = {"Authorization": f"Bearer {address.key}"}
    answer = httpx.get(f"{address.url}/openai/v1/batches?limit=100", headers=headers)
    return len(answer.json()["data"])


def test_inputs_of_an_endpoint_run_and_are_not_repeated(
    darkroom: Any, prompts: Path, address: Address, tmp_path: Path
) -> None:
    file = write(prompts, *({"prompt": f"inputs {n}"} for n in range(3)))
    out = tmp_path / "out"
    words = ("batch", "run", file, "--endpoint", "test/images", "--output", str(out))
    assert "3 of 3 done" in darkroom(*words).output
    rows = [json.loads(line) for line in (out / "output.jsonl").read_text().splitlines()]
    assert [row["custom_id"] for row in rows] == ["line-1", "line-2", "line-3"]
    files = sorted(out.glob("*.png"))
    assert [path.read_bytes() for path in files] == [b"image"] * 3
    assert not [*out.glob("*.part")]
    before, kept = number_of_batches(address), files.pop(0)
    files[0].unlink()
    kept.write_bytes(b"mine")
    darkroom(*words)
    assert number_of_batches(address) == before
    assert (files[0].read_bytes(), kept.read_bytes()) == (b"image", b"mine")
    darkroom(*words, "--again")
    assert number_of_batches(address) == before + 1


def test_lines_of_openais_batches_run(darkroom: Any, prompts: Path) -> None:
    url = "/v1/images/generations"
    body = {"model": "test/images", "prompt": "x"}
    lines = [{"custom_id": f"../{n}", "method": "POST", "url": url, "body": body} for n in "ab"]
    result = darkroom("batch", "run", write(prompts, *lines), "--json")
    answer = json.loads(result.stdout)
    assert (answer["batch"]["status"], answer["files"]) == ("completed", 2)
    folder = prompts.with_name("prompts-results")
    assert answer["directory"] == str(folder)
    assert len([*folder.glob("*.png")]) == 2
    listed = darkroom("batch", "list").output
    assert f"{answer['batch']['id']}  " in listed
    assert "completed, 2 of 2 done" in darkroom("batch", "show", answer["batch"]["id"]).output
    assert "completed" in darkroom("batch", "cancel", answer["batch"]["id"]).output


def test_failed_lines_are_an_exit_status_and_a_file(darkroom: Any, prompts: Path) -> None:
    file = write(prompts, {"prompt": "x"}, {"prompt": "x", "fail": "pipeline_failed"})
    result = darkroom("batch", "run", file, "--endpoint", "test/images", fails=True)
    assert "1 line failed" in result.output
    errors = prompts.with_name("prompts-results") / "errors.jsonl"
    assert json.loads(errors.read_text())["error"]["code"] == "pipeline_failed"


@pytest.mark.parametrize("status", ["cancelled", "expired"])
def test_a_batch_that_ended_before_its_lines_is_an_exit_status(tmp_path: Path, status: str) -> None:
    counts = {"completed": 0, "failed": 0, "total": 0}
    batch = {"status": status, "request_counts": counts, "errors": None}
    with pytest.raises(BatchNotDone, match=f"The batch is {status}, and 0 of 0 lines are done"):
        raise_unless_done(batch, tmp_path)
    counts |= {"completed": 1, "total": 2}
    with pytest.raises(BatchNotDone, match="1 of 2 lines are done"):
        raise_unless_done(batch, tmp_path)
    counts |= {"completed": 2}
    raise_unless_done(batch, tmp_path)


def test_a_batch_that_costs_more_than_it_may_does_not_run(
    darkroom: Any, prompts: Path, address: Address
) -> None:
    file = write(prompts, {"prompt": "costs"}, {"prompt": "money"})
    words = ("batch", "run", file, "--endpoint", "test/images")
    result = darkroom(*words, "--max-cost", "cheap", fails=True)
    assert "X-Darkroom-Max-Cost should be an amount" in result.output
    done = darkroom(*words, "--max-cost", "1 EUR").output  # the endpoint is free
    assert "2 of 2 done" in done
    assert "The batch was begun before" in darkroom(*words, "--max-cost", "2 EUR").output
    assert "The batch was begun before" not in darkroom(*words, "--max-cost", "1 EUR").output


def test_a_refused_file_says_which_line(darkroom: Any, prompts: Path) -> None:
    line = {"custom_id": "a", "method": "POST", "url": "/v1/videos", "body": {}}
    result = darkroom("batch", "run", write(prompts, line, line), fails=True)
    assert "line 2: Line 1 has the same `custom_id`" in result.output


@pytest.mark.parametrize(
    ("content", "words", "message"),
    [
        ("a red circle", ("--endpoint", "test/images"), "Line 1 is not JSON"),
        ("\n[]", ("--endpoint", "test/images"), "Line 2 is not a JSON object"),
        ('{"prompt": "x"}', (), "--endpoint ID"),
        ("\n", (), "has no lines"),
        ('{"custom_id": "a", "url": "/v1/videos", "body": {}}', ("--endpoint", "x"), "Leave out"),
        ('{"prompt": "x"}', ("--endpoint", "un/known"), "un/known"),
    ],
)
def test_problems_are_said_before_anything_runs(
    darkroom: Any, prompts: Path, content: str, words: tuple[str, ...], message: str
) -> None:
    prompts.write_text(content)
    assert message in darkroom("batch", "run", str(prompts), *words, fails=True).output


def test_an_unusable_folder_is_said_before_anything_runs(
    darkroom: Any, prompts: Path, address: Address, tmp_path: Path
) -> None:
    file = write(prompts, {"prompt": "no folder"})
    (tmp_path / "file").touch()
    before = number_of_batches(address)
    words = ("batch", "run", file, "--endpoint", "test/images")
    result = darkroom(*words, "--output", str(tmp_path / "file" / "out"), fails=True)
    assert "file/out cannot be written: Not a directory" in result.stderr
    assert number_of_batches(address) == before


def test_a_full_disk_is_said_with_how_to_go_on(
    darkroom: Any, prompts: Path, tmp_path: Path
) -> None:
    file = write(prompts, {"prompt": "full disk"})
    out = tmp_path / "out"
    out.mkdir()
    part_of(out / "output.jsonl").symlink_to("/dev/full")
    words = ("batch", "run", file, "--endpoint", "test/images", "--output", str(out))
    result = darkroom(*words, "--again", fails=True)
    assert "output.jsonl cannot be written: No space left on device." in result.stderr
    assert "run the command again without --again" in result.stderr
    assert "1 files are in" in darkroom(*words).output


def test_a_restart_of_the_server_does_not_end_the_wait(
    darkroom: Any,
    prompts: Path,
    address: Address,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connection, "PAUSES_S", (0.0,))
    waiting = [503, DROP]
    fetching = [502, DROP]

    def trouble(method: str, path: str) -> int | None:
        left = fetching if path.endswith(("/content", ".png")) else waiting
        single = method == "GET" and not path.endswith("/batches")
        return left.pop(0) if single and left else None

    file = write(prompts, {"prompt": "restart"})
    with flaky_proxy(address, trouble) as proxy:
        (tmp_path / "run.json").write_text(json.dumps({"url": proxy.url}))
        result = darkroom("batch", "run", file, "--endpoint", "test/images")
    assert "1 files are in" in result.output
    assert not waiting + fetching
