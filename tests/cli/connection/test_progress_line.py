"""The line that says what a command waits for."""

from __future__ import annotations

import io
import sys
import time

import pytest

from serve_app.cli.connection import progress_line as module
from serve_app.cli.connection.progress_line import ProgressLine


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def shown_on(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Standard error, as a terminal. No fixture: pytest sets its own after the fixtures."""
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(module, "FIRST_S", 0.01)
    monkeypatch.setattr(module, "EVERY_S", 0.01)
    return terminal


def until(terminal: Terminal, text: str) -> None:
    deadline = time.monotonic() + 30
    while text not in terminal.getvalue():
        assert time.monotonic() < deadline, terminal.getvalue()
        time.sleep(0.01)


def test_the_words_and_the_time_are_shown_in_one_line_that_is_gone_at_the_end(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    terminal = shown_on(monkeypatch)
    with ProgressLine("Copying") as waiting:
        until(terminal, "\rCopying, 0 s\x1b[K")
        waiting.show(lambda: f"Copied {'many ' * 40}files")
        until(terminal, "\rCopied many")
        waiting.above("One file is missing.")
    drawn = terminal.getvalue()
    assert "\n" not in drawn
    assert max(map(len, drawn.split("\r"))) <= 80 + len("\x1b[K")
    assert drawn.endswith("\r\x1b[K")
    assert capsys.readouterr().out == "One file is missing.\n"


def test_what_is_quick_shows_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = shown_on(monkeypatch)
    monkeypatch.setattr(module, "FIRST_S", 60)
    with ProgressLine("Copying"):
        pass
    assert terminal.getvalue() == ""


def test_programs_and_files_get_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = shown_on(monkeypatch)
    with ProgressLine("Copying", quiet=True):
        time.sleep(0.05)
    assert terminal.getvalue() == ""
    file = io.StringIO()
    monkeypatch.setattr(sys, "stderr", file)
    with ProgressLine("Copying"):
        time.sleep(0.05)
    assert file.getvalue() == ""
