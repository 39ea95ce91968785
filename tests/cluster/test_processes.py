"""What the cluster tests start hears signals, and nothing of it is left to another test."""

from __future__ import annotations

import signal
import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from tests.cluster.darkroom import Darkroom, eventually, living
from tests.cluster.processes import end_all, known_by, with_default_signals

SHOW_SIGNALS = """
import signal
print([signal.getsignal(each) is not signal.SIG_IGN for each in (signal.SIGHUP, signal.SIGINT)])
"""

# Deaf to everything but SIGKILL, with a child in a session of its own whose parent has ended.
STUBBORN = """
import os, signal, sys, time
for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
    signal.signal(number, signal.SIG_IGN)
if os.fork() == 0:
    os.setsid()
    if os.fork() != 0:
        os._exit(0)
time.sleep(600)
"""


@contextmanager
def ignore_signals(*numbers: signal.Signals) -> Iterator[None]:
    """The signals are ignored here, as under ``nohup``."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_signals_that_pytest_ignores_are_heard_by_what_it_starts() -> None:
    with ignore_signals(signal.SIGHUP, signal.SIGINT):
        output = subprocess.run(
            with_default_signals(sys.executable, "-c", SHOW_SIGNALS),
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    assert output.strip() == "[True, True]"


def test_a_process_and_what_it_has_left_are_ended_and_waited_for(tmp_path: Path) -> None:
    word = str(tmp_path)
    started = subprocess.Popen([sys.executable, "-c", STUBBORN, word], stdout=subprocess.PIPE)
    processes = eventually(lambda: _all_of(word, 2), "it and its orphan are there", 30)
    end_all([started], word)
    assert living(processes) == []
    assert started.returncode == -signal.SIGKILL
    assert started.stdout is not None
    assert started.stdout.closed


def test_a_process_of_another_directory_is_left_alone(tmp_path: Path) -> None:
    command = [sys.executable, "-c", STUBBORN, str(tmp_path / "data10")]
    started = subprocess.Popen(command)
    try:
        end_all([], str(tmp_path / "data1"))
        assert started.poll() is None
    finally:
        end_all([started], str(tmp_path / "data10"))


def test_a_darkroom_that_a_failed_test_leaves_warns_in_no_later_test(tmp_path: Path) -> None:
    darkroom = Darkroom(tmp_path / "data")
    command = [sys.executable, "-c", STUBBORN, str(darkroom.data_dir)]
    darkroom._process = subprocess.Popen(command)
    processes = eventually(lambda: _all_of(str(darkroom.data_dir), 2), "it is there", 30)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ResourceWarning)
        darkroom.clear_away()  # its Popen goes here, and says so if it was not waited for
    assert living(processes) == []
    assert [str(warning.message) for warning in caught] == []


def _all_of(word: str, number: int) -> list[psutil.Process]:
    processes = known_by(word)
    return processes if len(processes) >= number else []
