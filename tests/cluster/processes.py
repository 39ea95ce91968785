"""Processes that a test starts: with which signals they begin, and that all of them end."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
from collections.abc import Iterable

import psutil

Started = subprocess.Popen[bytes] | subprocess.Popen[str]

END_ROUNDS = 10
END_ROUND_S = 10.0

_DEFAULT_SIGNALS = """
import os, signal, sys
for number in (signal.SIGHUP, signal.SIGINT):
    signal.signal(number, signal.SIG_DFL)
os.execvp(sys.argv[1], sys.argv[1:])
"""


def with_default_signals(*command: str) -> list[str]:
    """``command``, as a terminal starts it: it hears SIGHUP and SIGINT.

    An ignored signal stays ignored in all that a process starts. Under ``nohup`` pytest ignores
    SIGHUP, and in the background of a shell without job control SIGINT.
    """
    return [sys.executable, "-c", _DEFAULT_SIGNALS, *command]


def known_by(*words: str) -> list[psutil.Process]:
    """Processes with one of the words in their command, environment or working directory.

    The words are paths; one that is the beginning of another's name is not that one.
    """
    known = re.compile("|".join(rf"{re.escape(word)}(?![\w-])" for word in words))
    processes: list[psutil.Process] = []
    for process in psutil.process_iter():
        try:
            text = " ".join([*process.cmdline(), *process.environ().values(), process.cwd()])
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue
        if process.pid != os.getpid() and known.search(text):
            processes.append(process)
    return processes


def command_of(process: psutil.Process) -> str:
    """Command line of a process; empty for one that has ended meanwhile."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def name_of(process: psutil.Process) -> str:
    """Name of a process; empty for one that has ended meanwhile."""
    try:
        return process.name()
    except psutil.Error:
        return ""


def end_all(started: Iterable[Started], *words: str) -> None:
    """Kill what was started, its descendants, and what is known by one of the words.

    More than one round: a process that is being started while its parent is killed is found in the
    next one. Each of ``started`` is waited for, or else its ``ResourceWarning`` fails a later test.
    """
    popens = list(started)
    for _ in range(END_ROUNDS):
        doomed = {*known_by(*words), *(member for popen in popens for member in tree_of(popen))}
        if not doomed:
            break
        for process in doomed:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        for popen in popens:
            popen.wait(timeout=END_ROUND_S)
        psutil.wait_procs(list(doomed), timeout=END_ROUND_S)
    for popen in popens:
        popen.wait(timeout=END_ROUND_S)
        for pipe in (popen.stdin, popen.stdout, popen.stderr):
            if pipe is not None:
                with contextlib.suppress(OSError):  # a broken pipe, with bytes not written yet
                    pipe.close()


def tree_of(popen: Started) -> list[psutil.Process]:
    """A started process that has not ended, and its descendants."""
    if popen.poll() is not None:
        return []
    try:
        process = psutil.Process(popen.pid)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []
