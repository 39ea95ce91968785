"""Log on the console, and the log file from which it is copied."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from serve_app.cli.serve import console as log_console
from serve_app.cli.serve.console import Console, LogFollower
from tests.cluster.darkroom import eventually


class Screen(io.StringIO):
    """Console that signals when it shows text."""

    def __init__(self) -> None:
        super().__init__()
        self._shown = threading.Condition()

    def write(self, text: str, /) -> int:
        with self._shown:
            self._shown.notify_all()
            return super().write(text)

    def wait_for(self, text: str) -> None:
        with self._shown:
            assert self._shown.wait_for(lambda: text in self.getvalue(), timeout=20)


def following(path: Path, screen: Screen) -> LogFollower:
    console = Console(path.with_name("ray.log"))
    console.stream = screen
    follower = LogFollower(path, console)
    follower.start()
    return follower


def test_the_file_stays_small_while_others_write_it_and_the_console_shows_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_console, "ROTATE_AT_BYTES", 1000)
    path, screen = tmp_path / "logs" / "darkroom.log", Screen()
    follower = following(path, screen)
    with path.open("a", buffering=1) as first, path.open("a", buffering=1) as other:
        for number in range(100):
            (first if number % 2 else other).write(f"line {number} {'x' * 20}\n")
            screen.wait_for(f"line {number} ")
            # What is written in the moment of a rotation is lost, so none is written then.
            eventually(lambda: path.stat().st_size <= 1000, "the file has been rotated")
    follower.aclose()
    assert screen.getvalue().count("\n") == 100
    assert path.stat().st_size < 1200
    assert path.with_suffix(".log.1").stat().st_size > 1000


def test_the_log_is_followed_and_rotated_again_after_its_disk_was_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_console, "ROTATE_AT_BYTES", 100)
    path, screen = tmp_path / "logs" / "darkroom.log", Screen()
    path.parent.mkdir()
    kept = path.with_suffix(".log.1")
    kept.symlink_to("/dev/full")
    follower = following(path, screen)
    with path.open("a", buffering=1) as log:
        log.write(f"{'x' * 150}\n")
        screen.wait_for("x\n")
        log.write("The disk is full.\n")
        screen.wait_for("The disk is full.\n")
        kept.unlink()
        log.write(f"{'y' * 150}\n")
        eventually(lambda: path.stat().st_size <= 100, "the file has been rotated")
    follower.aclose()
    assert "y\n" in screen.getvalue()
    assert kept.stat().st_size > 100


def test_a_terminal_that_is_gone_does_not_keep_darkroom_from_ending(tmp_path: Path) -> None:
    console = Console(tmp_path / "ray.log")
    console.stream = Path("/dev/full").open("w")  # noqa: SIM115 closed below
    console.print_line("It is said, and no one hears it.")
    with pytest.raises(OSError, match="No space"):
        console.stream.close()


def test_a_terminal_that_was_closed_ends_no_progress_bar(tmp_path: Path) -> None:
    """In a process of its own, whose standard error is the terminal."""
    ours, theirs = os.openpty()
    program = f"""
import sys
from pathlib import Path
from serve_app.cli.generation.progress import progress_bar, update_bar
from serve_app.cli.serve.console import Console

console = Console(Path({str(tmp_path)!r}) / "ray.log")
console.open()
assert console.is_terminal
with progress_bar(console.stream, 80) as bar:
    sys.stdin.readline()  # until the terminal is closed
    for _ in range(10_000):
        update_bar(bar, {{"status": "IN_PROGRESS"}}, 80)
        update_bar(bar, {{"status": "IN_QUEUE", "queue_position": 0}}, 80)
console.close()
print("ended")
"""
    command = [sys.executable, "-c", program]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=theirs, text=True
    ) as running:
        os.close(theirs)
        assert b"queued" in os.read(ours, 1000)
        os.close(ours)
        output, _ = running.communicate("\n", timeout=60)
    assert output == "ended\n"
    assert running.returncode == 0
