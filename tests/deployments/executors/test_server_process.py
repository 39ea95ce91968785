"""Server processes of executors: real processes, which end with whoever started them."""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from deployments.executors import guard
from deployments.executors.process import ChildProcess
from deployments.executors.server_process import Launch, ServerProcess
from serve_app import free_ports
from serve_app.domain.errors import AppNotStarted

SERVER = """\
import http.server, os, subprocess, sys
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"ready")
    def log_message(self, *words):
        print("asked", flush=True)
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


def launch(code: str) -> Callable[[int], Launch]:
    return lambda port: Launch([sys.executable, "-c", code, str(port)], {"COLOUR": "blue"})


def leader_of(process: ServerProcess) -> int:
    assert process._process is not None
    return process._process.pid


async def wait_until_gone(process: ServerProcess) -> None:
    """Wait until no process of a server's group is alive. They were killed already."""
    await until_gone(leader_of(process))


async def until_gone(leader: int, within_s: float = 120.0) -> None:
    async with asyncio.timeout(within_s):
        while alive(leader):  # noqa: ASYNC110  # other processes, which tell nobody
            await asyncio.sleep(0.02)


def alive(leader: int) -> set[int]:
    """Processes of a group that are alive: those that have ended may still be listed."""
    pids: set[int] = set()
    for process in Path("/proc").iterdir():
        if process.name.isdecimal():
            try:
                state = (process / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(state[2]) == leader and state[0] != "Z":
                pids.add(int(process.name))
    return pids


async def start_server(folder: Path, code: str = SERVER) -> ServerProcess:
    process = ServerProcess("test", folder)
    await process.start(launch(code), folder)

    async def probe() -> bool:
        return (await process.http.get("/")).text == "ready"

    try:
        await process.ready(probe, 60.0)
    except BaseException:
        await process.aclose(0)
        raise
    return process


async def test_a_server_answers_on_its_port_and_ends_with_its_children(tmp_path: Path) -> None:
    process = await start_server(tmp_path)
    assert process.alive
    assert "asked" in process.last_lines
    assert len(alive(leader_of(process))) == 3  # the guard, the server, and what that has started
    await process.aclose(5.0)
    assert not process.alive
    await wait_until_gone(process)


async def test_a_server_that_ends_says_how(tmp_path: Path) -> None:
    with pytest.raises(AppNotStarted, match="its process ended with status 3: no weights"):
        await start_server(tmp_path, "print('no weights'); raise SystemExit(3)")
    with pytest.raises(AppNotStarted, match="its process was killed by SIGSEGV"):
        await start_server(tmp_path, "import os; os.kill(os.getpid(), 11)")
    with pytest.raises(AppNotStarted, match=r"killed by SIGKILL, perhaps for lack of memory$"):
        await start_server(tmp_path, "import os; os.kill(os.getpid(), 9)")


async def test_a_server_that_does_not_become_ready_is_given_up(tmp_path: Path) -> None:
    process = ServerProcess("test", tmp_path)
    await process.start(
        launch("import time; print('loading', flush=True); time.sleep(600)"), tmp_path
    )

    async def loading() -> bool:
        return "loading" in process.last_lines

    async def never() -> bool:
        return await asyncio.sleep(600, result=False)

    await process.ready(loading, 120.0)
    with pytest.raises(AppNotStarted, match=r"within 0\.1 s\. Its last line was: loading"):
        await process.ready(never, 0.1)
    await process.aclose(0)
    await wait_until_gone(process)


async def test_a_server_ends_when_its_replica_is_killed(tmp_path: Path) -> None:
    """The replica is a process that starts the guard and waits."""
    code = f"""\
import socket, subprocess, sys, time
ours, theirs = socket.socketpair()
command = [sys.executable, {guard.__file__!r}, str(theirs.fileno()), "5", "-1", sys.executable]
ended = subprocess.Popen(
    [*command, "-c", "import time; time.sleep(600)"],
    pass_fds=[theirs.fileno()],
    start_new_session=True,
)
print(ended.pid, flush=True)
time.sleep(600)
"""
    replica = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", code), stdout=asyncio.subprocess.PIPE
    )
    assert replica.stdout is not None
    leader = int(await replica.stdout.readline())
    assert alive(leader)
    replica.send_signal(signal.SIGKILL)
    await replica.wait()
    await until_gone(leader)


async def test_an_app_that_is_stuck_ends_with_its_children_when_its_replica_is_killed(
    tmp_path: Path,
) -> None:
    """The replica starts a worker that reads nothing, as one in a call of a library does."""
    stuck = "import subprocess, time; subprocess.Popen(['sleep', '600']); time.sleep(600)"
    code = f"""\
import asyncio, sys
from pathlib import Path
from deployments.executors import process
process.GUARD_GRACE_S = 0.1
async def main():
    child = process.ChildProcess("stuck", Path.cwd())
    await child.start([sys.executable, "-c", {stuck!r}], Path.cwd())
    print(child._process.pid, flush=True)
    await asyncio.sleep(600)
asyncio.run(main())
"""
    replica = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", code),
        cwd=tmp_path,
        env={"PYTHONPATH": str(Path(guard.__file__).parents[2])},
        stdout=asyncio.subprocess.PIPE,
    )
    assert replica.stdout is not None
    leader = int(await replica.stdout.readline())
    assert alive(leader)
    replica.send_signal(signal.SIGKILL)
    await replica.wait()
    await until_gone(leader, 20.0)


async def test_an_app_is_asked_to_end_by_its_socket_alone(tmp_path: Path) -> None:
    """A signal would end it before it has cleaned up."""
    code = """\
import socket, sys
read = socket.socket(fileno=int(sys.argv[1]))
read.send(b'"begun"\\n')
assert read.recv(1) == b""
open("clean", "w").close()
"""
    child = ChildProcess("tidy", tmp_path)
    await child.start([sys.executable, "-c", code], tmp_path)
    assert await child.receive() == "begun"
    await child.aclose(20.0)
    assert (tmp_path / "clean").exists()
    assert child.end == "ended with status 0"


async def test_an_app_that_closes_its_socket_has_said_its_last_message(tmp_path: Path) -> None:
    code = "import os, sys, time; os.close(int(sys.argv[1])); time.sleep(600)"
    child = ChildProcess("quiet", tmp_path)
    await child.start([sys.executable, "-c", code], tmp_path)
    async with asyncio.timeout(120):
        assert await child.receive() is None
    await child.aclose(0)


async def test_its_port_is_none_that_the_kernel_gives_to_clients(tmp_path: Path) -> None:
    process = ServerProcess("served", tmp_path)
    await process.start(launch(SERVER), tmp_path)
    try:
        assert process.port < 32_768  # start of Linux's range of ephemeral ports
    finally:
        await process.aclose(5.0)


async def test_without_a_free_port_it_does_not_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        monkeypatch.setattr(free_ports, "PORTS", range(port, port + 1))
        with pytest.raises(AppNotStarted, match="ports are free"):
            await ServerProcess("served", tmp_path).start(launch(SERVER), tmp_path)
