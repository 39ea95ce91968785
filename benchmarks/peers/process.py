"""A server of the others, as a process of its own Python."""

from __future__ import annotations

import argparse
import os
import subprocess
from pathlib import Path

import httpx2
import psutil

from serve_app.free_ports import free_port
from tests.cluster.darkroom import ROOT, clean_environment, eventually

SETTINGS = ("threads", "batch", "wait_ms")


class PeerProcess:
    """`benchmarks/peers/<module>.py` on a port of its own."""

    def __init__(self, module: str, python: str, options: argparse.Namespace, output: Path) -> None:
        self._module = module
        self._python = Path(python).absolute()
        self._settings = {name: str(getattr(options, name)) for name in SETTINGS}
        self._output = output
        self._port = free_port()
        self.url = f"http://127.0.0.1:{self._port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Returns when it answers."""
        with self._output.open("wb") as output:
            self._process = subprocess.Popen(  # noqa: S603 our own modules
                self._command(),
                env=self._environment(),
                cwd=self._output.parent,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        with httpx2.Client(base_url=self.url, timeout=2) as http:
            eventually(lambda: self._answers(http), f"{self._module} answers", within_s=300)

    def family(self) -> list[psutil.Process]:
        """With the processes that it started."""
        assert self._process is not None
        first = psutil.Process(self._process.pid)
        return [first, *first.children(recursive=True)]

    def stop(self) -> None:
        if self._process is None or self._process.poll() is not None:
            return
        family = self.family()
        self._process.terminate()
        _, alive = psutil.wait_procs(family, timeout=10)
        for process in alive:
            process.kill()
        self._process.wait(timeout=10)

    def _command(self) -> list[str]:
        if self._module == "bento":
            bentoml = str(self._python.parent / "bentoml")
            service = f"benchmarks.peers.{self._module}:Draws"
            address = ("--host", "127.0.0.1", "--port", str(self._port))
            return [bentoml, "serve", service, *address]
        options = [
            text
            for name, value in self._settings.items()
            for text in (f"--{name.replace('_', '-')}", value)
        ]
        module = f"benchmarks.peers.{self._module}"
        return [str(self._python), "-m", module, "--port", str(self._port), *options]

    def _environment(self) -> dict[str, str]:
        settings = {f"PEER_{name.upper()}": value for name, value in self._settings.items()}
        # Its own processes are to find its own `bentoml`.
        path = f"{self._python.parent}{os.pathsep}{clean_environment().get('PATH', '')}"
        home = str(self._output.parent / "bentoml")
        quiet = {"BENTOML_DO_NOT_TRACK": "True", "BENTOML_HOME": home, "HF_HUB_OFFLINE": "1"}
        return clean_environment() | settings | quiet | {"PYTHONPATH": str(ROOT), "PATH": path}

    def _answers(self, http: httpx2.Client) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise RuntimeError(f"{self._module} ended:\n{self._output.read_text()[-3000:]}")
        try:
            return http.get(_READY[self._module]).is_success
        except httpx2.TransportError:
            return False


_READY = {"bento": "/readyz", "lit": "/health", "one_by_one": "/docs"}
"""What each answers well when its model is loaded."""
