"""A command runs as on the GPU machine: without network and home, and no longer than its limit."""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from tests.gpu_rehearsal.running import Shell, can_unshare


def shell_of(folder: Path, *, unshared: bool) -> Shell:
    for name in ("tree", "site", "tmp"):
        (folder / name).mkdir()
    python = Path(sys.executable)
    return Shell(folder / "tree", python, folder / "site", folder / "tmp", unshared)


def ignore(_: str) -> None:
    pass


def test_nothing_is_written_below_home(tmp_path: Path) -> None:
    shell = shell_of(tmp_path, unshared=False)
    command = "from pathlib import Path; (Path.home() / '.cache').mkdir(parents=True)"
    ran = shell.run(["-c", command], 60.0, ignore)
    assert ran.status == 1
    assert "NotADirectoryError" in ran.printed


@pytest.mark.skipif(not can_unshare(), reason="no network can be unshared here")
def test_a_network_without_interfaces_reaches_nothing(tmp_path: Path) -> None:
    shell = shell_of(tmp_path, unshared=True)
    command = "import socket; socket.create_connection(('192.0.2.1', 80))"
    ran = shell.run(["-c", command], 60.0, ignore)
    assert ran.status == 1
    assert "Network is unreachable" in ran.printed


def test_an_address_is_not_reached_by_a_proxy_that_is_not_there(tmp_path: Path) -> None:
    shell = shell_of(tmp_path, unshared=False)
    command = "import urllib.request; urllib.request.urlopen('http://192.0.2.1')"
    ran = shell.run(["-c", command], 60.0, ignore)
    assert ran.status == 1
    assert "Connection refused" in ran.printed


def test_a_command_ends_at_its_limit(tmp_path: Path) -> None:
    ran = shell_of(tmp_path, unshared=False).run(["-c", "while True: pass"], 0.5, ignore)
    assert ran.status is None


WITH_A_CHILD = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "while True: pass"], start_new_session=True)
print(child.pid, file=sys.stderr)
child.wait()
"""


def test_what_a_command_has_started_ends_with_it(tmp_path: Path) -> None:
    def stop(line: str) -> None:
        raise KeyboardInterrupt(line)

    with pytest.raises(KeyboardInterrupt) as stopped:
        shell_of(tmp_path, unshared=False).run(["-c", WITH_A_CHILD], 600.0, stop)
    with suppress(psutil.NoSuchProcess):  # a container's first process may leave it a zombie
        assert psutil.Process(int(str(stopped.value))).status() == psutil.STATUS_ZOMBIE


def test_lines_are_said_as_they_come_and_kept(tmp_path: Path) -> None:
    lines = list[str]()
    command = "import sys; print('grüße'); print('error', file=sys.stderr); sys.exit(3)"
    ran = shell_of(tmp_path, unshared=False).run(["-c", command], 60.0, lines.append)
    assert lines == ["grüße", "error"]
    assert (ran.status, ran.printed) == (3, "grüße\nerror\n")
