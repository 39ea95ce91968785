"""After kill -9 the next start stops the leftover processes, and no others."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from serve_app.cli.serve.processes import RunRecord

SLEEPER = "import time; time.sleep(600)"
DEAF = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print(flush=True)
time.sleep(600)
"""


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-c", SLEEPER])
    yield process
    process.kill()
    process.wait()


def test_the_next_start_ends_what_the_last_one_started(
    tmp_path: Path, sleeper: subprocess.Popen[bytes]
) -> None:
    RunRecord(tmp_path / "run.json", tmp_path / "run").write("http://127.0.0.1:1")
    assert RunRecord(tmp_path / "run.json", tmp_path / "run").stop_leftover_processes() >= 1
    assert not psutil.pid_exists(sleeper.pid)


def test_a_process_that_ignores_the_request_to_end_is_killed(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", DEAF], stdout=subprocess.PIPE) as deaf:
        assert deaf.stdout is not None
        deaf.stdout.readline()
        RunRecord(tmp_path / "run.json", tmp_path / "run").write("")
        RunRecord(tmp_path / "run.json", tmp_path / "run").stop_leftover_processes()
        assert not psutil.pid_exists(deaf.pid)


def test_a_process_that_no_record_has_is_known_by_the_run_directory(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    # An orphan with the folder's name in its environment, like Ray's workers.
    start = (
        "import subprocess, sys;"
        f"command = [sys.executable, '-c', {SLEEPER!r}, '--sockets={run_dir}/ray'];"
        "one = subprocess.Popen(command, stdout=subprocess.DEVNULL);"
        "print(one.pid)"
    )
    result = subprocess.run([sys.executable, "-c", start], stdout=subprocess.PIPE, check=True)
    stray = psutil.Process(int(result.stdout))
    assert stray not in psutil.Process().children(recursive=True)
    assert RunRecord(tmp_path / "run.json", run_dir).stop_leftover_processes() == 1
    assert not stray.is_running()


def test_a_process_that_got_the_pid_later_is_left_alone(
    tmp_path: Path, sleeper: subprocess.Popen[bytes]
) -> None:
    path = tmp_path / "run.json"
    RunRecord(path, tmp_path / "run").write("")
    content = json.loads(path.read_text())
    for entry in content["started"]:
        entry["start_time"] -= 1000
    path.write_text(json.dumps(content))
    assert RunRecord(path, tmp_path / "run").stop_leftover_processes() == 0
    assert psutil.pid_exists(sleeper.pid)
    assert sleeper.poll() is None


@pytest.mark.parametrize("content", ["", "{}", '{"started": 3}', "not json"])
def test_a_broken_record_ends_nothing_and_stops_nothing(tmp_path: Path, content: str) -> None:
    path = tmp_path / "run.json"
    path.write_text(content)
    assert RunRecord(path, tmp_path / "run").stop_leftover_processes() == 0
