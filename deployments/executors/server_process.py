"""An HTTP server as the process of an executor: on a loopback port, supervised, ended by group."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx2

from deployments.executors.process import ProcessGroup
from serve_app.domain.errors import AppNotStarted, Misconfigured, ReplicaDied
from serve_app.free_ports import free_port

HOST = "127.0.0.1"
FIRST_PROBE_S, LAST_PROBE_S = 0.05, 0.5
PROBE_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class Launch:
    """Command of a server, and variables that it gets besides those of any child."""

    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict[str, str])


class ServerProcess(ProcessGroup):
    """A server that listens on a port of the loopback interface. Use on one event loop."""

    def __init__(self, name: str, home: Path) -> None:
        super().__init__(name, home)
        self._http: httpx2.AsyncClient | None = None
        self.port = 0

    @property
    def http(self) -> httpx2.AsyncClient:
        """Client of the server, without a time limit."""
        if self._http is None:
            raise ReplicaDied(f"{self._name} does not run.")
        return self._http

    async def start(self, launch: Callable[[int], Launch], folder: Path) -> None:
        """Start what ``launch`` says for the port that it gets, in ``folder``.

        Raises ``AppNotStarted`` if no port is free, and ``OSError`` without room for a process.
        """
        self.port = _chosen_port()
        program = launch(self.port)
        await self._spawn(program.command, folder, program.environment)
        self._http = httpx2.AsyncClient(
            base_url=f"http://{HOST}:{self.port}",
            trust_env=False,
            verify=False,  # no TLS, whose certificates take 20 ms to read
            timeout=httpx2.Timeout(None),
        )

    async def ready(self, probe: Callable[[], Awaitable[bool]], within_s: float) -> None:
        """Wait until ``probe`` is true. It may raise ``AppNotStarted``; a server that does not
        answer yet is asked again.

        Raises ``AppNotStarted`` when the process has ended, or after ``within_s`` seconds.
        """
        pause_s = FIRST_PROBE_S
        try:
            async with asyncio.timeout(within_s):
                while not await self._run_probe(probe):
                    if not self.alive:
                        raise AppNotStarted(f"{self._name} does not start: its process {self.end}")
                    await asyncio.sleep(pause_s)
                    pause_s = min(2 * pause_s, LAST_PROBE_S)
        except TimeoutError:
            last_line = f" Its last line was: {self.last_lines[-1]}" if self.last_lines else ""
            raise AppNotStarted(
                f"{self._name} was not ready within {within_s:g} s.{last_line}"
            ) from None

    async def _run_probe(self, probe: Callable[[], Awaitable[bool]]) -> bool:
        with contextlib.suppress(httpx2.TransportError, TimeoutError):
            async with asyncio.timeout(PROBE_TIMEOUT_S):
                return await probe()
        return False

    async def wait_for_end(self, within_s: float) -> bool:
        """True if the process has ended, or does so within ``within_s`` seconds."""
        if self._process is None:
            return False
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await self._process.wait()
        return not self.alive

    async def aclose(self, grace_s: float) -> None:
        """Ask the server to end by SIGTERM, and kill its group after ``grace_s``."""
        if self._http is not None:
            await self._http.aclose()
        self._let_go()
        await self._end_group(grace_s)


def _chosen_port() -> int:
    """A port that is free now. If another process takes it first, the server ends and says so."""
    try:
        return free_port(HOST)
    except Misconfigured as error:
        raise AppNotStarted(error.message) from None
