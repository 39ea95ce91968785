"""``darkroom generate`` as users call it: files, pipes, Ctrl-C and mistakes."""

from __future__ import annotations

import json
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from serve_app.cli.connection import client as connection
from serve_app.cli.connection.client import Client
from serve_app.cli.connection.installation import Installation
from serve_app.cli.connection.whole_file import part_of
from serve_app.cli.main import main
from tests.cli.flaky_proxy import CUT, DROP, Trouble, flaky_proxy
from tests.cluster.processes import with_default_signals
from tests.ingress.house import OTHERS
from tests.wire.served import Address, serve


@pytest.fixture(scope="module")
def address() -> Iterator[Address]:
    with serve(catalog=OTHERS) as address:
        yield address


@pytest.fixture
def data_dir(address: Address, tmp_path: Path) -> Path:
    data_dir = tmp_path / "data"
    data_dir.mkdir()
    (data_dir / "run.json").write_text(json.dumps({"url": address.url}))
    (data_dir / "api_key").write_text(address.key)
    return data_dir


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Empty working directory."""
    place = tmp_path / "here"
    place.mkdir()
    monkeypatch.chdir(place)
    return place


class Shell:
    """Calls ``darkroom generate``."""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir

    def __call__(self, *words: str, typed: str | bytes | None = None) -> Result:
        arguments = ["generate", *words, "--data-dir", str(self._data_dir)]
        return CliRunner().invoke(main, arguments, input=typed)

    def start(self, *words: str) -> subprocess.Popen[str]:
        """Process of its own, as in a terminal."""
        command = [sys.executable, "-m", "serve_app.cli", "generate", *words]
        return subprocess.Popen(
            with_default_signals(*command, "--data-dir", str(self._data_dir)),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def requests(self) -> list[dict[str, Any]]:
        with Client(Installation(self._data_dir)) as client:
            return list(client.get("/v1/requests")["requests"])


@pytest.fixture
def generate(data_dir: Path, here: Path) -> Shell:
    del here
    return Shell(data_dir)


@pytest.mark.parametrize(
    ("model", "file"),
    [("test/images", "out.png"), ("test/audio", "out.wav"), ("test/videos", "out.mp4")],
)
def test_without_a_name_the_file_is_of_the_kind_that_the_endpoint_makes(
    generate: Shell, here: Path, model: str, file: str
) -> None:
    result = generate("x", "-m", model)
    assert result.exit_code == 0, result.output
    assert [path.name for path in here.iterdir()] == [file]


@pytest.mark.parametrize(
    ("field", "file"),
    [('output_format="jpeg"', "out.jpg"), ("output_format=webp", "out.webp")],
)
def test_without_a_name_the_file_has_the_format_of_the_field(
    generate: Shell, here: Path, field: str, file: str
) -> None:
    result = generate("x", "-m", "test/images", "--field", field)
    assert result.exit_code == 0, result.output
    assert [path.name for path in here.iterdir()] == [file]
    named = generate("x", "-m", "test/images", "--set", field, "-o", f"named{Path(file).suffix}")
    assert named.exit_code == 0, named.output


def test_files_that_exist_are_kept_and_the_new_ones_are_numbered(
    generate: Shell, here: Path
) -> None:
    (here / "out.png").write_text("precious")
    (here / "out-3.png").write_text("precious")
    result = generate("x", "-m", "test/images", "-n", "2")
    assert [line.split()[0] for line in result.stdout.splitlines()[:2]] == [
        "out-4.png",
        "out-5.png",
    ]
    assert {(here / name).read_text() for name in ("out.png", "out-3.png")} == {"precious"}
    assert generate("x", "-m", "test/images", "-o", "out.png", "--overwrite").exit_code == 0
    assert (here / "out.png").read_text() == "image"


@pytest.mark.variants(4)
@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["-o", "/nonexistent/x.png"], "The folder /nonexistent does not exist"),
        (["--preview", "/nonexistent/x.jpg"], "The folder /nonexistent does not exist"),
        (["-o", "x.wav", "-m", "fal-ai/flux/schnell"], "does not write .wav files"),
        (["--mask", "https://example.test/a.png"], "Add --image."),
        (["-m", "fal-ai/flux/schnell", "--field", "foo=1"], "--field foo: "),
        (["-m", "fal-ai/flux/schnell", "--strength", "0.5"], "--strength (strength): "),
        (["-o", "-", "--json"], "Leave out --json"),
        (["-o", "-", "-n", "2"], "Leave out --count"),
        (["--strength", "nan"], "--strength (strength) is NaN or infinite"),
        (["--field", "strength=NaN"], "--field strength is NaN or infinite"),
        (["--field", 'a={"b": [-Infinity]}'], "--field a is NaN or infinite"),
        (["--field", 'a=["\\ud800"]'], "--field a is not text in UTF-8"),
        (["--field", "a\udcff=1"], "--field a\N{REPLACEMENT CHARACTER} is not text in UTF-8"),
        (
            ["-o", "x.png", "-m", "test/images", "--field", "output_format=jpeg"],
            "-o x.png and --field output_format=jpeg name two formats.",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_a_mistake_is_found_before_anything_is_generated(
    generate: Shell, words: list[str], sentence: str
) -> None:
    before = generate.requests()
    wrong = generate("x", *words)
    assert wrong.exit_code == 1
    assert sentence in wrong.stderr
    assert generate.requests() == before


def test_a_prompt_that_is_not_utf_8_is_reported_in_a_sentence(generate: Shell) -> None:
    by_argument = generate("a\udcff", "-m", "test/images")
    assert by_argument.exit_code == 1
    assert "PROMPT (prompt) is not text in UTF-8" in by_argument.stderr
    by_pipe = generate("-", "-m", "test/images", typed=b"a\xff")
    assert by_pipe.exit_code == 1
    assert "Standard input is not text in UTF-8" in by_pipe.stderr


def test_an_error_of_the_server_names_the_option(generate: Shell) -> None:
    wrong = generate("x", "-m", "fal-ai/flux/schnell", "--steps", "99", "--size", "1x1")
    assert wrong.exit_code == 1
    assert "--steps (num_inference_steps): " in wrong.stderr
    assert "--size (image_size)" in wrong.stderr


def test_a_dash_reads_the_prompt_from_standard_input(generate: Shell) -> None:
    result = generate("-", "-m", "test/images", "--json", typed="a red circle\n")
    assert json.loads(result.stdout)["prompt"] == "a red circle"
    assert "has no prompt" in generate("-", typed=" \n").stderr


def test_a_dash_writes_the_file_to_standard_output_and_nothing_else(
    generate: Shell, here: Path
) -> None:
    result = generate("x", "-m", "test/images", "-o", "-", "--field", "content=the bytes")
    assert result.stdout_bytes == b"the bytes"
    assert "seed 0" in result.stderr
    assert not list(here.iterdir())


def test_an_output_without_files_is_printed(generate: Shell, here: Path) -> None:
    ran = generate("--model", "test/probe", "--field", 'yields=[{"n": "é"}]')
    assert ran.exit_code == 0, ran.output
    assert json.loads(ran.stdout) == {"n": "é"}
    assert list(here.iterdir()) == []
    named = generate("--model", "test/probe", "-o", "a.png", "--field", 'yields=[{"n": 1}]')
    assert named.exit_code == 1
    assert "test/probe returned no file" in named.output


@pytest.mark.parametrize("name", ["output", "text"])
def test_a_text_is_printed_or_written(generate: Shell, here: Path, name: str) -> None:
    probe = ("--model", "test/probe", "--field", f'yields=[{{"{name}": "é"}}]')
    assert generate(*probe).stdout == "é\n"
    assert json.loads(generate(*probe, "--json").stdout) == {name: "é"}
    assert generate(*probe, "-o", "a.txt").stdout.splitlines() == ["a.txt", "done"]
    assert (here / "a.txt").read_text() == "é"
    assert generate(*probe, "-o", "-").stdout == "é"
    image = generate(*probe, "-o", "a.png")
    assert image.exit_code == 1
    assert "test/probe returned no file" in image.output


@pytest.mark.parametrize(
    ("beside", "is_alone"),
    [
        ('"seed": 7, "timings": {}, "error": null, "reasoning": "", "partial": false', True),
        ('"flagged": false', False),
        ('"reasoning": "why"', False),
        ('"text": "more"', False),
    ],
)
def test_a_text_is_printed_alone_only_if_nothing_is_said_beside_it(
    generate: Shell, here: Path, beside: str, is_alone: bool
) -> None:
    whole = f'{{"output": "é", {beside}}}'
    probe = ("--model", "test/probe", "--field", f"yields=[{whole}]")
    printed = generate(*probe).stdout
    if is_alone:
        assert printed == "é\n"
    else:
        assert json.loads(printed) == json.loads(whole)
    assert generate(*probe, "-o", "a.txt").exit_code == 0
    assert (here / "a.txt").read_text() == "é"


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
@pytest.mark.long
def test_ctrl_c_and_the_end_of_a_terminal_cancel_the_request_and_say_which(
    generate: Shell, here: Path, number: signal.Signals, status: int
) -> None:
    before = {request["request_id"] for request in generate.requests()}
    running = generate.start("x", "-m", "test/images", "--field", "sleep_s=60")
    try:
        assert running.stderr is not None
        assert "queued" in running.stderr.readline()  # it has the answer to its submit
        (new,) = (r for r in generate.requests() if r["request_id"] not in before)
        running.send_signal(number)
        _, stderr = running.communicate(timeout=60)
    finally:
        running.kill()
        running.wait()
    assert running.returncode == status
    assert f"Cancelled request {new['request_id']}." in stderr
    with Client(Installation(generate._data_dir)) as client:
        follow = {"status_url": f"/queue/test/images/requests/{new['request_id']}/status"}
        *_, last = client.follow(follow)
        ended = client.get(f"/v1/requests/{new['request_id']}")
    assert (last["status"], ended["state"]) == ("COMPLETED", "cancelled")
    assert not list(here.iterdir())


@pytest.mark.long
def test_a_closed_standard_error_changes_nothing_but_what_is_said_there(
    generate: Shell, here: Path
) -> None:
    command = f"exec {shlex.quote(sys.executable)} -m serve_app.cli generate x -m test/images"
    done = subprocess.run(
        ["sh", "-c", f'{command} --data-dir "$0" -o a.png 2>&-', str(generate._data_dir)],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout.split()[0]) == (0, "a.png")
    assert (here / "a.png").exists()


@pytest.mark.long
def test_closed_standard_input_and_output_are_empty_ones(generate: Shell, here: Path) -> None:
    command = f"exec {shlex.quote(sys.executable)} -m serve_app.cli generate -m test/images"

    def run(words: str) -> tuple[int, str]:
        done = subprocess.run(
            ["sh", "-c", f'{command} --data-dir "$0" {words}', str(generate._data_dir)],
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, done.stderr

    status, said = run("- -o a.png <&-")
    assert (status, said.startswith("darkroom: Standard input has no prompt.")) == (1, True)
    assert not list(here.iterdir())
    status, said = run("x -o - >&-")
    assert (status, "Traceback" in said) == (0, False)


class Restart:
    """Trouble of the proxy: ``answers`` one after the other to reads whose path has a ``part``."""

    def __init__(self, part: str, *answers: int) -> None:
        self._part = part
        self._answers = [*answers]

    def __call__(self, method: str, path: str) -> int | None:
        if method == "GET" and self._part in path and self._answers:
            return self._answers.pop(0)
        return None


def through(address: Address, trouble: Trouble, data_dir: Path, *words: str) -> Result:
    """``darkroom generate`` of an image through a proxy with some trouble."""
    with flaky_proxy(address, trouble) as proxy:
        (data_dir / "run.json").write_text(json.dumps({"url": proxy.url}))
        return Shell(data_dir)("x", "-m", "test/images", *words)


@pytest.mark.long
@pytest.mark.parametrize("part", ["/status", "/requests/", "/files/"])
def test_a_restart_of_the_server_does_not_lose_the_request(
    address: Address, data_dir: Path, here: Path, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    monkeypatch.setattr(connection, "PAUSES_S", (0.0,))
    result = through(address, Restart(part, 502, DROP, 503, 504), data_dir)
    assert result.exit_code == 0, result.output
    assert (here / "out.png").read_text() == "image"
    assert result.stderr.count("Trying again for up to 60 s.") == 1
    assert result.stderr.count("answers again.") == 1


def test_a_request_that_failed_with_503_is_not_asked_for_again(
    address: Address, data_dir: Path
) -> None:
    read: list[str] = []

    def note(_method: str, path: str) -> None:
        if path.rpartition("/")[0].endswith("/requests"):
            read.append(path)

    failed = through(address, note, data_dir, "--field", "fail=replica_died")
    assert failed.exit_code == 1
    assert "Trying again" not in failed.stderr
    assert len(read) == 1


@pytest.mark.long
@pytest.mark.parametrize("status", [404, 503])
def test_a_failure_after_the_submit_names_the_request_and_how_to_see_it(
    address: Address, data_dir: Path, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    monkeypatch.setattr(connection, "PAUSES_S", (0.0,))
    monkeypatch.setattr(connection, "RESTART_S", 0.2)
    failed = through(address, Restart("/files/", *[status] * 5000), data_dir)
    assert failed.exit_code == 1
    assert f"could not be fetched: {status}" in failed.stderr
    (newest, *_) = Shell(data_dir_of(address, data_dir)).requests()
    assert f"`darkroom requests show {newest['request_id']}` shows " in failed.stderr
    assert f"`darkroom open {newest['request_id']}` opens " in failed.stderr


def data_dir_of(address: Address, data_dir: Path) -> Path:
    """The data directory, with the address of the server itself again."""
    (data_dir / "run.json").write_text(json.dumps({"url": address.url}))
    return data_dir


@pytest.mark.parametrize("answer", [429, 503])
def test_a_request_that_was_not_accepted_is_not_named(
    address: Address, data_dir: Path, answer: int
) -> None:
    refused = through(address, lambda method, _: answer if method == "POST" else None, data_dir)
    assert refused.exit_code == 1
    assert "darkroom requests" not in refused.stderr


@pytest.mark.long
@pytest.mark.parametrize("answer", [CUT, DROP, 502])
def test_a_submit_whose_answer_is_lost_is_repeated_and_makes_one_request(
    address: Address, data_dir: Path, here: Path, monkeypatch: pytest.MonkeyPatch, answer: int
) -> None:
    monkeypatch.setattr(connection, "PAUSES_S", (0.0,))
    before = len(Shell(data_dir).requests())
    submits: list[str] = []

    def trouble(method: str, path: str) -> int | None:
        if method != "POST":
            return None
        submits.append(path)
        return answer if len(submits) == 1 else None

    result = through(address, trouble, data_dir)
    assert result.exit_code == 0, result.output
    assert (here / "out.png").read_text() == "image"
    assert len(submits) == 2
    assert len(Shell(data_dir_of(address, data_dir)).requests()) == before + 1


@pytest.mark.parametrize("answer", [CUT, DROP, 502])
def test_a_lost_answer_to_the_submit_says_that_it_may_have_been_accepted(
    address: Address, data_dir: Path, monkeypatch: pytest.MonkeyPatch, answer: int
) -> None:
    monkeypatch.setattr(connection, "PAUSES_S", (0.1,))
    monkeypatch.setattr(connection, "RESTART_S", 0.2)
    lost = through(address, lambda method, _: answer if method == "POST" else None, data_dir)
    assert lost.exit_code == 1
    assert "may have been accepted all the same; `darkroom requests list` shows it." in lost.stderr


@pytest.mark.parametrize("more", [("--overwrite",), ()])
def test_a_full_disk_keeps_what_was_there_and_says_how_to_see_the_result(
    generate: Shell, here: Path, more: tuple[str, ...]
) -> None:
    (here / "out.png").write_text("precious")
    for name in ("out.png", "out-2.png"):
        part_of(here / name).symlink_to("/dev/full")
    failed = generate("x", "-m", "test/images", "-o", "out.png", *more)
    assert failed.exit_code == 1
    assert "cannot be written: No space left on device." in failed.stderr
    assert "`darkroom open " in failed.stderr
    assert (here / "out.png").read_text() == "precious"
    assert not (here / "out-2.png").exists()


def test_a_link_that_leads_nowhere_is_a_name_that_is_taken(generate: Shell, here: Path) -> None:
    (here / "out.png").symlink_to(here / "gone")
    result = generate("x", "-m", "test/images")
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in here.iterdir()) == ["out-2.png", "out.png"]
