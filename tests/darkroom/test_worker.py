"""The worker process: descriptions of apps, and the messages of their calls."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]

APP = """
import asyncio, multiprocessing, os, sys, threading, time
from collections.abc import AsyncIterator, Iterator
from typing import Any
import darkroom

class Tester(darkroom.App):
    concurrency = 2

    async def setup(self) -> None:
        self.word = "Hello"
        self.turn = threading.Barrier(2)

    @darkroom.endpoint("/greet")
    def greet(self, name: str) -> dict[str, str]:
        print("greeting", name)
        print("no end of line", end="")
        return {"text": f"{self.word}, {name}!"}

    @darkroom.endpoint("/count")
    def count(self, to: int) -> Iterator[int]:
        for number in range(to):
            darkroom.progress(number, to)
            yield number

    @darkroom.endpoint("/turns")
    def turns(self, name: str) -> Iterator[str]:
        for _ in range(3):
            self.turn.wait(60)
            print(name)
            yield name

    @darkroom.endpoint("/wait")
    async def wait(self) -> dict[str, str]:
        darkroom.progress(1)
        await asyncio.Event().wait()

    @darkroom.endpoint("/spin")
    def spin(self) -> dict[str, str]:
        while True:
            darkroom.progress(1)

    @darkroom.endpoint("/fail")
    def fail(self, how: str) -> dict[str, Any]:
        if how == "app":
            raise darkroom.AppError("Too busy.", retry=True)
        if how == "field":
            raise darkroom.InvalidField("how", "Not this one.")
        if how == "exit":
            sys.exit("a library ends")
        if how == "large":
            return {"text": "a" * (65 << 20)}
        if how == "library":
            int("one")
        if how == "no text":
            raise Unspeakable
        if how == "no JSON":
            raise darkroom.InvalidField("how", "Not this one.", context={"found": object()})
        if how == "path":
            raise ValueError(f"File {__file__}")
        if how == "group":
            try:
                int("one")
            except ValueError as error:
                raise ExceptionGroup("both", [KeyError("elsewhere"), error])
        if how == "exits as text":
            raise Leaving
        if how == "long":
            raise ValueError("a" * (65 << 20))
        return {"how": object()}

    @darkroom.endpoint("/fork")
    async def fork(self) -> dict[str, int]:
        child = os.fork()
        await asyncio.sleep(0.01)
        return {"child": child}

    @darkroom.endpoint("/pool")
    async def pool(self) -> dict[str, str]:
        def work(answers):
            print("in a child")
            darkroom.progress(1)
            answers.put("done")
        context = multiprocessing.get_context("fork")
        answers = context.Queue()
        child = context.Process(target=work, args=(answers,))
        child.start()
        done = answers.get(timeout=60)
        child.join()
        return {"answer": f"{done} {child.exitcode}"}

    @darkroom.endpoint("/stop")
    async def stop(self) -> dict[str, str]:
        asyncio.get_running_loop().stop()
        await asyncio.sleep(0.01)
        return {"text": "still here"}

    @darkroom.endpoint("/quit")
    async def quit(self) -> dict[str, str]:
        threading.Thread(target=time.sleep, args=(120,)).start()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        await asyncio.Event().wait()

    @darkroom.endpoint("/bar")
    def bar(self) -> dict[str, str]:
        for part in range(1000):
            print(f"\\r{part / 10:.0f}%", end="", file=sys.stderr)
        print(file=sys.stderr)
        sys.stdout.buffer.write(b"")
        return {"encoding": sys.stdout.encoding}

    @darkroom.endpoint("/iterator")
    def iterator(self, to: int) -> Iterator[int]:
        return map(int, range(to))


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise RuntimeError

class Leaving(Exception):
    def __str__(self) -> str:
        sys.exit(1)
"""


def environment() -> dict[str, str]:
    return {"PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"]}  # noqa: TID251


def run_describe(folder: Path, name: str) -> tuple[int, dict[str, Any]]:
    """Exit status and answer of ``describe``."""
    done = subprocess.run(
        [sys.executable, "-m", "darkroom.worker", "describe", name],
        cwd=folder,
        env=environment(),
        capture_output=True,
        timeout=120,
        check=False,
    )
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout.splitlines()[-1])


class Peer:
    """The replica's end of a worker's socket."""

    def __init__(self, folder: Path, name: str) -> None:
        ours, theirs = socket.socketpair()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "darkroom.worker", "serve", name, str(theirs.fileno())],
            cwd=folder,
            env=environment(),
            pass_fds=(theirs.fileno(),),
        )
        theirs.close()
        ours.settimeout(120)
        self._socket, self._lines = ours, ours.makefile("rb")
        self._folder = folder
        self.first = self.receive()

    def receive(self) -> dict[str, Any]:
        return json.loads(self._lines.readline())

    def send(self, **message: Any) -> None:
        self._socket.sendall(json.dumps(message).encode() + b"\n")

    def begin(self, id_: str, path: str, **arguments: Any) -> None:
        self.send(id=id_, path=path, input=arguments, folder=str(self._folder))

    def until_end(self, *ids: str) -> list[dict[str, Any]]:
        """Messages until the calls have ended."""
        messages: list[dict[str, Any]] = []
        left = set(ids)
        while left:
            messages.append(self.receive())
            if {"output", "error"} & messages[-1].keys():
                left.remove(messages[-1]["id"])
        return messages

    def until_nothing(self) -> None:
        """Read until the worker has closed its end."""
        self._socket.settimeout(20)
        with contextlib.suppress(ConnectionResetError):  # it has not read all
            while self._lines.readline():
                pass

    def call(self, path: str, **arguments: Any) -> list[dict[str, Any]]:
        self.begin("r", path, **arguments)
        messages = self.until_end("r")
        assert all(message.pop("id") == "r" for message in messages)
        return messages

    def close(self) -> int:
        self._lines.close()
        self._socket.close()
        return self.process.wait(120)


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peer]:
    folder = tmp_path_factory.mktemp("app")
    (folder / "tester.py").write_text(APP)
    peer = Peer(folder, "tester:Tester")
    try:
        assert peer.first == {"ready": True}
        yield peer
        assert peer.close() == 0
    finally:
        peer.process.kill()
        peer.process.wait()


def test_a_result_comes_after_the_lines_that_were_printed(worker: Peer) -> None:
    assert worker.call("/greet", name="Ada") == [
        {"log": ["INFO", "greeting Ada"]},
        {"log": ["INFO", "no end of line"]},
        {"output": {"text": "Hello, Ada!"}},
    ]


def test_a_generator_sends_each_value_at_once_and_the_last_as_the_result(worker: Peer) -> None:
    assert worker.call("/count", to=3) == [
        {"progress": [0, 3]},
        {"partial": {"output": 0}},
        {"progress": [1, 3]},
        {"partial": {"output": 1}},
        {"progress": [2, 3]},
        {"partial": {"output": 2}},
        {"output": {"output": 2}},
    ]


def test_an_iterator_that_a_method_returns_is_as_a_generator(worker: Peer) -> None:
    assert worker.call("/iterator", to=2) == [
        {"partial": {"output": 0}},
        {"partial": {"output": 1}},
        {"output": {"output": 1}},
    ]


def test_a_generator_without_values_fails(worker: Peer) -> None:
    ((end),) = worker.call("/count", to=0)
    assert end["error"]["message"] == "count yielded nothing, so there is no result."


def test_requests_that_take_turns_have_their_own_logs(worker: Peer) -> None:
    for name in "ab":
        worker.begin(name, "/turns", name=name)
    messages = worker.until_end("a", "b")
    for name in "ab":
        own = [message for message in messages if message["id"] == name]
        assert [message["log"][1] for message in own if "log" in message] == [name] * 3
        assert own[-1] == {"id": name, "output": {"output": name}}


@pytest.mark.parametrize("path", ["/wait", "/spin"])
def test_a_cancelled_call_ends(worker: Peer, path: str) -> None:
    worker.begin("r", path)
    assert worker.receive() == {"id": "r", "progress": [1, 0]}
    worker.send(id="r", cancel=True)
    assert worker.until_end("r")[-1]["error"]["kind"] == "cancelled"


def test_a_call_that_is_not_there_can_be_cancelled(worker: Peer) -> None:
    worker.send(id="other", cancel=True)
    assert worker.call("/count", to=1)[-1] == {"output": {"output": 0}}


@pytest.mark.parametrize(
    ("how", "error"),
    [
        ("app", {"kind": "failed", "message": "Too busy.", "retry": True}),
        (
            "field",
            {
                "kind": "invalid",
                "field": "how",
                "message": "Not this one.",
                "type": "value_error",
                "context": None,
            },
        ),
        ("exit", {"kind": "failed", "message": "SystemExit: a library ends (tester.py, line 50)"}),
        (
            "library",
            {
                "kind": "failed",
                "message": "ValueError: invalid literal for int() with base 10: 'one' "
                "(tester.py, line 54)",
            },
        ),
        (
            "large",
            {
                "kind": "failed",
                "message": "The output has 65 MiB as JSON; at most 64 MiB are possible. Return "
                "large data as a darkroom.File.",
                "retry": False,
            },
        ),
        (
            "no text",
            {
                "kind": "failed",
                "message": "Unspeakable: its text cannot be sent (RuntimeError)",
            },
        ),
        (
            "no JSON",
            {
                "kind": "failed",
                "message": "InvalidField: its text cannot be sent (TypeError)",
            },
        ),
        (
            "path",
            {"kind": "failed", "message": "ValueError: File tester.py (tester.py, line 60)"},
        ),
        (
            "group",
            {
                "kind": "failed",
                "message": "ValueError: invalid literal for int() with base 10: 'one' "
                "(tester.py, line 63)",
            },
        ),
        (
            "exits as text",
            {
                "kind": "failed",
                "message": "Leaving: its text cannot be sent (SystemExit)",
            },
        ),
        (
            "long",
            {
                "kind": "failed",
                "message": "ValueError: its text cannot be sent (AppError)",
            },
        ),
    ],
)
def test_an_error_ends_its_call_only(worker: Peer, how: str, error: dict[str, Any]) -> None:
    assert worker.call("/fail", how=how) == [{"error": error}]
    assert worker.call("/greet", name="Ada")[-1]["output"]


def test_a_child_that_a_method_forks_takes_no_calls(worker: Peer) -> None:
    messages = worker.call("/fork")
    assert messages[-1]["output"]["child"], "the result is that of the process that was called"
    assert len(messages) == 1
    for _ in range(10):
        assert worker.call("/greet", name="Ada")[-1]["output"]


def test_a_child_of_multiprocessing_may_print_and_report_progress(worker: Peer) -> None:
    assert worker.call("/pool") == [{"output": {"answer": "done 0"}}]


def test_a_method_that_stops_the_loop_stops_no_call(worker: Peer) -> None:
    assert worker.call("/stop") == [{"output": {"text": "still here"}}]
    assert worker.call("/greet", name="Ada")[-1]["output"]


def test_a_process_that_serves_no_more_says_so_although_its_threads_go_on(tmp_path: Path) -> None:
    (tmp_path / "tester.py").write_text(APP)
    peer = Peer(tmp_path, "tester:Tester")
    try:
        peer.begin("r", "/quit")
        peer.begin("s", "/wait")
        peer.until_nothing()
    finally:
        peer.process.kill()
        peer.close()


def test_a_result_that_is_not_json_is_an_error(worker: Peer) -> None:
    (end,) = worker.call("/fail", how="")
    assert end["error"]["message"].startswith("fail returned what cannot be sent as JSON: ")


def test_an_input_that_the_app_refuses_names_the_field(worker: Peer) -> None:
    (end,) = worker.call("/count", to="many")
    assert (end["error"]["kind"], end["error"]["field"]) == ("invalid", "to")


def test_an_unknown_path_is_an_error(worker: Peer) -> None:
    assert worker.call("/nothing") == [
        {"error": {"kind": "failed", "message": "There is no endpoint /nothing."}}
    ]


def test_a_bar_of_progress_is_one_line_of_the_log(worker: Peer) -> None:
    assert worker.call("/bar") == [
        {"log": ["ERROR", "100%"]},
        {"output": {"encoding": "utf-8"}},
    ]


def test_a_setup_that_fails_says_where(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text(
        "import darkroom, json\n"
        "class Broken(darkroom.App):\n"
        "    def setup(self):\n"
        "        json.loads('{')\n"
        "    @darkroom.endpoint('/')\n"
        "    def run(self) -> int: ...\n"
    )
    peer = Peer(tmp_path, "broken:Broken")
    assert peer.first["failed"].startswith("setup() failed: JSONDecodeError: ")
    assert peer.first["failed"].endswith("(broken.py, line 4)")
    assert peer.close() == 1


@pytest.mark.variants(1)
@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "import darkroom\nimport nothing_like_it\n",
            "No module named 'nothing_like_it' (app.py, line 2)",
        ),
        ("import darkroom\nclass X(:\n", "(app.py, line 2)"),
        ("import json\n\njson.loads('{')\n", "(app.py, line 3)"),
        ("import sys\nsys.exit(3)\n", "SystemExit: 3 (app.py, line 2)"),
        ("X = 1\n", "app.py has no class X that is a darkroom.App"),
        ("", "app.py has no class X that is a darkroom.App"),
        (
            "from darkroom import *\nclass X(App):\n    @endpoint()\n    def a(self): ...\n",
            "X.a does not say what it returns: add `-> Output`",
        ),
    ],
    ids=["import", "syntax", "library", "exit", "no class", "empty", "no type"],
)
def test_what_is_wrong_with_a_file_is_said_with_its_line(
    tmp_path: Path, text: str, message: str
) -> None:
    (tmp_path / "app.py").write_text(text)
    status, description = run_describe(tmp_path, "app:X")
    assert status == 1
    assert message in description["failed"]


@pytest.mark.long
def test_an_app_is_described_although_it_prints(tmp_path: Path) -> None:
    (tmp_path / "tester.py").write_text(APP + "\nprint('imported')\n")
    status, description = run_describe(tmp_path, "tester:Tester")
    assert status == 0
    assert description["concurrency"] == 2
    paths = [endpoint["path"] for endpoint in description["endpoints"]]
    assert {"/bar", "/count", "/fail", "/greet", "/spin", "/turns", "/wait"} <= {*paths}
