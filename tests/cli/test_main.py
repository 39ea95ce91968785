"""Commands as typed by a user, against a Darkroom with fakes behind real HTTP."""

import base64
import json
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from serve_app.cli.batches import command as batches
from serve_app.cli.commands import requests, webhooks
from serve_app.cli.connection.client import Client
from serve_app.cli.connection.installation import Installation
from serve_app.cli.generation.endpoint_input import look_up
from serve_app.cli.generation.files import (
    MediaKind,
    format_of,
    kind_of,
    output_paths,
    outputs,
)
from serve_app.cli.generation.options import GenerateOptions
from serve_app.cli.generation.viewer import NO_VIEWER, open_in_viewer
from serve_app.cli.main import main
from serve_app.domain.errors import DarkroomError, InvalidInput
from serve_app.domain.media.data_uri import read_data_uri
from tests.cluster.processes import with_default_signals
from tests.wire.served import Address, serve

PIXEL = base64.b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9Q")


@pytest.fixture(scope="module")
def address() -> Iterator[Address]:
    with serve() as address:
        yield address


@pytest.fixture
def data_dir(address: Address, tmp_path: Path) -> Path:
    data_dir = tmp_path / "data"
    data_dir.mkdir()
    (data_dir / "run.json").write_text(json.dumps({"url": address.url}))
    (data_dir / "api_key").write_text(address.key)
    return data_dir


@pytest.fixture
def darkroom(data_dir: Path) -> Any:
    def run(*words: str, fails: bool = False) -> Result:
        result = CliRunner().invoke(main, [*words, "--data-dir", str(data_dir)])
        assert (result.exit_code != 0) == fails, result.output
        return result

    return run


def probe(darkroom: Any, output: Path, *more: str) -> dict[str, Any]:
    words = ("generate", "hello", "-m", "test/probe", "-o", str(output), "--json")
    return dict(json.loads(darkroom(*words, "--field", "artifacts=2", *more).stdout))


def last_request(darkroom: Any) -> str:
    listed = json.loads(darkroom("requests", "list", "--json").stdout)
    return str(listed["requests"][0]["request_id"])


def test_generate_writes_every_file_and_says_where(darkroom: Any, tmp_path: Path) -> None:
    report = probe(darkroom, tmp_path / "out.png", "--field", "content=image")
    assert report["saved"] == [str(tmp_path / "out.png"), str(tmp_path / "out-2.png")]
    assert all(Path(path).read_bytes() == b"image" for path in report["saved"])


def test_generate_writes_files_that_come_inside_the_output(darkroom: Any, tmp_path: Path) -> None:
    report = probe(
        darkroom, tmp_path / "o.png", "--field", "content=a", "--field", "sync_mode=true"
    )
    assert all(image["url"].startswith("data:") for image in report["images"])
    assert [Path(path).read_bytes() for path in report["saved"]] == [b"a", b"a"]


def test_a_frame_without_an_address_is_a_file() -> None:
    content = base64.b64encode(b"frame").decode()
    frame = {"content": content, "content_type": "image/jpeg", "width": 8, "height": 8}
    (output,) = outputs({"images": [frame], "seed": 1})
    assert read_data_uri(output["url"]) == b"frame"


def test_generate_says_for_people_what_it_made(darkroom: Any, tmp_path: Path) -> None:
    output = tmp_path / "out.png"
    words = ("generate", "hello", "-m", "test/probe", "-o", str(output), "--field", "artifacts=1")
    assert f"{output}  8×8" in darkroom(*words).output


def test_a_wish_with_an_image_or_a_mask_goes_to_an_endpoint_that_takes_them(
    tmp_path: Path,
) -> None:
    image = tmp_path / "in.png"
    image.write_bytes(PIXEL)
    assert GenerateOptions("a").endpoint() == "fal-ai/flux/schnell"
    from_image = GenerateOptions("a", images=(str(image),), strength=0.6)
    assert from_image.endpoint() == "fal-ai/flux/dev/image-to-image"
    uri = f"data:image/png;base64,{base64.b64encode(PIXEL).decode()}"
    assert from_image.body() == {
        "prompt": "a",
        "image_url": uri,
        "strength": 0.6,
    }
    masked = GenerateOptions("a", images=("https://example.test/a.png",), mask=str(image), count=2)
    assert masked.endpoint() == "fal-ai/fast-sdxl/inpainting"
    assert masked.body() == {
        "prompt": "a",
        "image_url": "https://example.test/a.png",
        "mask_url": uri,
        "num_images": 2,
    }


def test_a_wish_for_a_video_goes_to_an_endpoint_that_makes_one() -> None:
    video = kind_of(format_of(Path("out.MP4")))
    assert (video, kind_of(format_of(Path("a.gif")))) == (MediaKind.VIDEO, MediaKind.VIDEO)
    assert GenerateOptions("a").endpoint(video) == "fal-ai/wan/v2.2-5b/text-to-video"
    options = GenerateOptions("a", images=("https://example.test/a.png",))
    assert options.endpoint(video) == "fal-ai/wan/v2.2-5b/image-to-video"
    assert GenerateOptions("a", model="me/mine").endpoint(video) == "me/mine"
    audio = kind_of(format_of(Path("out.opus")))
    assert GenerateOptions("a").endpoint(audio) == "fal-ai/stable-audio"
    with pytest.raises(InvalidInput, match="no default model that makes audio from --image"):
        options.endpoint(audio)
    mesh = kind_of(format_of(Path("out.glb")))
    with pytest.raises(InvalidInput, match="no default model that makes a mesh from a prompt"):
        GenerateOptions("a").endpoint(mesh)


def test_files_of_another_type_than_the_first_get_their_own_extension() -> None:
    video, poster, image = (
        {"content_type": media_type} for media_type in ("video/mp4", "image/jpeg", "image/png")
    )
    out = Path("out.mp4")
    assert output_paths(out, [video, poster]) == [out, Path("out.jpg")]
    assert output_paths(out, [video, video, poster, poster]) == [
        out,
        Path("out-2.mp4"),
        Path("out.jpg"),
        Path("out-2.jpg"),
    ]
    assert output_paths(Path("a.png"), [image] * 3) == [
        Path("a.png"),
        Path("a-2.png"),
        Path("a-3.png"),
    ]
    mesh, odd = {"content_type": "model/gltf-binary"}, {"content_type": "model/obj"}
    assert output_paths(Path("a.png"), [image, mesh]) == [Path("a.png"), Path("a.glb")]
    assert output_paths(Path("a.png"), [image, odd]) == [Path("a.png"), Path("a-2.png")]


@pytest.mark.parametrize("model", ["fal-ai/flux/schnell", "test/probe", "nobody/nothing"])
def test_the_field_for_the_format_is_looked_up(data_dir: Path, model: str) -> None:
    with Client(Installation(data_dir)) as client:
        assert look_up(client, model).format_field == "output_format"


def test_an_image_that_is_none_or_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"notes\.txt is not an image"):
        GenerateOptions("a", images=(str(tmp_path / "notes.txt"),)).body()
    with pytest.raises(InvalidInput, match=r"gone\.png cannot be read"):
        GenerateOptions("a", images=(str(tmp_path / "gone.png"),)).body()


def test_logs_shows_and_follows_a_request_to_its_end(darkroom: Any, tmp_path: Path) -> None:
    probe(darkroom, tmp_path / "out.png")
    shown = darkroom("logs", last_request(darkroom)).output
    assert "queued" in shown.lower()
    followed = darkroom("logs", last_request(darkroom), "-f", "--json").stdout.splitlines()
    assert [json.loads(line)["level"] for line in followed]


STRANGE = "one\ntwo\x1b]0;owned\x07 \x9b2J"
"""A message that would set a terminal's title and clear it."""


REQUEST = {
    **dict.fromkeys(("started_at", "finished_at", "waiting", "progress", "reuses", "follows")),
    "request_id": "1",
    "state": "failed",
    "endpoint_id": "test/probe",
    "tenant": "default",
    "created_at": "2026-05-01T00:00:00+00:00",
    "priority": 0,
    "forgotten": [],
}


def test_what_a_model_or_a_user_writes_commands_no_terminal() -> None:
    line = {"at": "2026-05-01T00:00:00+00:00", "level": "INFO", "message": STRANGE}
    shown = requests.line_of(line)
    assert shown.splitlines()[1].startswith("two")  # a traceback stays readable
    error = {"message": STRANGE, "code": "pipeline_failed"}
    record = REQUEST | {"error": error, "log": [line], "input": {STRANGE: STRANGE}}
    facts = [*requests.details(record)]
    assert "  error      one two" in "\n".join(facts)
    problem = {"line": 3, "message": STRANGE}
    batched = batches.problems_of({"errors": {"data": [problem]}})
    tried = {"at": line["at"], "took_s": 1.0, "error": STRANGE, "status": None}
    hook = {"request_id": "1", "state": "dead", "tries": 1, "url": "http://a/", "error": STRANGE}
    delivered = webhooks.lines(hook | {"log": [tried], "next_try_at": None})
    for text in (shown, *facts, *batched, *delivered):
        assert all(character.isprintable() for character in text.replace("\n", "")), text


def test_following_prints_each_line_once(
    darkroom: Any, data_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    installation = Installation(data_dir)
    request_id = _submit(installation, {"sleep_s": 1.2})
    requests.show(installation, request_id, follow=True, as_json=True, sleep=lambda _: None)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(set(lines)) >= 3
    assert "succeeded" in lines[-1].lower() or "finished" in lines[-1].lower()


def test_open_opens_what_was_made_and_prints_where_it_is(
    darkroom: Any, data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = probe(darkroom, tmp_path / "out.png")
    opened: list[str] = []

    def launch(urls: Sequence[str]) -> bool:
        opened.extend(urls)
        return True

    requests.open_files(Installation(data_dir), last_request(darkroom), launch=launch)
    assert len(opened) == len(report["saved"]) == 2
    assert capsys.readouterr().out.splitlines() == opened


def test_open_prints_the_same_as_json(
    darkroom: Any, data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    probe(darkroom, tmp_path / "out.png")
    installation, request_id = Installation(data_dir), last_request(darkroom)
    requests.open_files(installation, request_id, launch=lambda _: True)
    urls = capsys.readouterr().out.splitlines()
    requests.open_files(installation, request_id, launch=lambda _: True, as_json=True)
    assert json.loads(capsys.readouterr().out) == {"request_id": request_id, "urls": urls}


@pytest.mark.parametrize("viewer", ["exit 3", None], ids=["it cannot start", "there is none"])
def test_open_prints_the_addresses_only_and_fails_without_a_viewer(
    darkroom: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, viewer: str | None
) -> None:
    probe(darkroom, tmp_path / "out.png")
    programs = tmp_path / "bin"
    programs.mkdir()
    if viewer is not None:
        (programs / "xdg-open").write_text(f"#!/bin/sh\necho no method >&2\n{viewer}\n")
        (programs / "xdg-open").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}")
    ran = darkroom("open", last_request(darkroom), fails=True)
    assert all(line.startswith("http://") for line in ran.stdout.splitlines())
    assert ran.stderr == f"darkroom: {NO_VIEWER} The URLs above work in any browser.\n"


def test_open_starts_the_viewer_with_each_address(tmp_path: Path) -> None:
    program = tmp_path / "viewer"
    program.write_text(f'#!/bin/sh\necho "$1" >> {tmp_path}/opened\n')
    program.chmod(0o755)
    assert open_in_viewer(["http://a", "http://b"], [str(tmp_path / "gone"), str(program)])
    assert (tmp_path / "opened").read_text().split() == ["http://a", "http://b"]


def test_a_list_of_requests_shows_their_prompts_in_one_line_each(
    darkroom: Any, data_dir: Path
) -> None:
    request_id = _submit(
        Installation(data_dir), {"prompt": f"a red\ncircle\x1b[2J {'very ' * 40}large"}
    )
    line = next(
        row
        for row in darkroom("requests", "list").stdout.splitlines()
        if row.startswith(request_id)
    )
    assert "test/probe  a red circle\N{REPLACEMENT CHARACTER}[2J very" in line
    assert line.endswith("…")
    assert (
        "There are no such requests." in darkroom("requests", "list", "--state", "expired").stderr
    )


def test_a_request_is_shown_for_people(darkroom: Any, tmp_path: Path) -> None:
    probe(darkroom, tmp_path / "out.png", "--field", "echo=[1, 2]")
    request_id = last_request(darkroom)
    lines = darkroom("requests", "show", request_id).stdout.splitlines()
    assert lines[0] == f"{request_id}  succeeded"
    facts = {line.split()[0]: line.split(maxsplit=1)[1] for line in lines[1:] if line[:2] == "  "}
    assert facts["endpoint"] == "test/probe"
    assert facts["ended"].endswith("after 0.2 s of work")
    assert (facts["prompt"], facts["echo"]) == ("hello", "[1, 2]")
    assert lines[-1] == f"`darkroom open {request_id}` opens its files."
    failed = darkroom(
        "generate", "x", "-m", "test/probe", "--field", "fail=pipeline_failed", fails=True
    )
    assert "It went wrong." in failed.stderr
    shown = darkroom("requests", "show", last_request(darkroom)).stdout
    assert "  error      It went wrong. (pipeline_failed)" in shown


def test_open_says_why_there_is_nothing_to_open(data_dir: Path) -> None:
    installation = Installation(data_dir)
    request_id = _submit(installation, {"sleep_s": 30})
    with pytest.raises(DarkroomError, match="nothing to open"):
        requests.open_files(installation, request_id)
    cancelled = CliRunner().invoke(
        main, ["requests", "cancel", request_id, "--json", "--data-dir", str(data_dir)]
    )
    assert json.loads(cancelled.stdout)["verdict"] in ("cancelled", "requested")


@pytest.mark.parametrize(
    "words",
    [["status"], ["requests", "list"], ["env", "--mode", "plain"], ["models"]],
    ids=" ".join,
)
def test_json_is_printed_for_programs(darkroom: Any, words: list[str]) -> None:
    assert json.loads(darkroom(*words, "--json").stdout)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_printed_for_the_usual_shells(shell: str) -> None:
    result = CliRunner().invoke(main, ["completion", shell])
    assert result.exit_code == 0
    assert "_DARKROOM_COMPLETE" in result.output


def test_endpoints_and_requests_are_completed_from_what_runs(
    darkroom: Any, data_dir: Path, tmp_path: Path
) -> None:
    probe(darkroom, tmp_path / "out.png")
    typed = f"darkroom generate --data-dir {data_dir} -m fal-ai/fl"
    assert "fal-ai/flux/schnell" in _completed(typed)
    latest = last_request(darkroom)
    assert latest in _completed(f"darkroom logs --data-dir {data_dir} {latest[:8]}")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="of Linux")
def test_a_full_disk_under_the_output_is_a_sentence() -> None:
    with Path("/dev/full").open("w") as full:
        ran = subprocess.run(
            [sys.executable, "-m", "serve_app.cli", "completion", "bash"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            timeout=120,
        )
    assert ran.stderr == "darkroom: The output cannot be written: No space left on device.\n"
    assert ran.returncode == 1


def test_completion_is_silent_where_nothing_runs(tmp_path: Path) -> None:
    assert _completed(f"darkroom logs --data-dir {tmp_path} 0") == ""


def test_a_darkroom_that_does_not_run_is_a_sentence(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["logs", "x", "--data-dir", str(tmp_path)])
    assert result.exit_code == 1
    assert "Start one with `darkroom serve`" in result.output


@pytest.mark.parametrize(
    "words",
    [
        ["batch", "cancel", "a\udcff"],
        ["endpoints", "pause", "a\udcff"],
        ["jobs", "restart", "a\udcff"],
        ["requests", "show", "a\udcff"],
    ],
)
def test_an_id_that_is_not_utf_8_is_a_sentence(darkroom: Any, words: list[str]) -> None:
    ran = darkroom(*words, fails=True)
    assert isinstance(ran.exception, SystemExit)
    assert "An argument is not text in UTF-8" in ran.output


@pytest.mark.parametrize(
    "words", [["deploy", "{}"], ["weights", "add", "own", "{}", "--base", "test/probe"]]
)
def test_a_file_that_cannot_be_read_is_named(
    darkroom: Any, tmp_path: Path, words: list[str]
) -> None:
    path = tmp_path / ("a" * 300)
    ran = darkroom(*(word.format(path) for word in words), fails=True)
    assert isinstance(ran.exception, SystemExit)
    assert f"{path}: File name too long." in ran.output


def test_a_setting_that_is_wrong_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DARKROOM_PORT", "many")
    result = CliRunner().invoke(main, ["status"])
    assert result.exit_code == 1
    assert "port: Input should be a valid integer" in result.output


def _submit(installation: Installation, body: dict[str, Any]) -> str:
    with Client(installation) as client:
        return str(client.submit("test/probe", body)["request_id"])


def _completed(line: str) -> str:
    environment = {
        "_DARKROOM_COMPLETE": "bash_complete",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(line.split()) - 1),
    }
    result = CliRunner().invoke(main, prog_name="darkroom", env=environment)
    return "\n".join(row.partition(",")[2] for row in result.output.splitlines())


def ask_to_delete(data_dir: Path) -> subprocess.Popen[bytes]:
    """A command that waits for an answer, once it has asked."""
    words = ("tenants", "delete", "studio", "--data-dir", str(data_dir))
    command = with_default_signals(sys.executable, "-m", "serve_app.cli", *words)
    asking = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE)
    assert asking.stderr is not None
    asked = b""
    while not asked.endswith(b"[y/N]: "):
        asked += asking.stderr.read(1)
    return asking


def test_a_question_that_nobody_answers_says_that_nothing_was_done(data_dir: Path) -> None:
    _, said = (asking := ask_to_delete(data_dir)).communicate()
    assert asking.returncode == 1
    assert b"Standard input ended before the answer, so nothing was done." in said


def test_ctrl_c_at_a_question_ends_as_anywhere_else(data_dir: Path) -> None:
    asking = ask_to_delete(data_dir)
    ended = None
    while ended is None:
        asking.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            # Its input is open until then: its end is an answer too. And Python overlooks a signal
            # that comes just before it begins to read.
            ended = asking.wait(timeout=5)
    assert ended == 130
    assert asking.communicate()[1] == b"\nStopped.\n"
