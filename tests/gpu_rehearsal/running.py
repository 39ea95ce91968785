"""Commands as the GPU machine runs them: without a network, and bounded in time.

Stricter than there: nothing below ``HOME`` can be created, so that nothing depends on what the home
of its user holds or allows.
"""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.cluster.processes import end_all

UNSHARED = ("unshare", "--map-root-user", "--net")
"""Command in a new network, in which no interface is up, as root of a new namespace of users."""

CLOSED_PROXY = "http://127.0.0.1:9"
OFFLINE = {
    **dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), CLOSED_PROXY),
    "HF_HUB_OFFLINE": "1",
}
"""Where networks cannot be unshared, as in some containers."""


def can_unshare() -> bool:
    try:
        return subprocess.run([*UNSHARED, "true"], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


@dataclass(frozen=True)
class Ran:
    status: int | None  # None: it was ended at its limit of time
    printed: str  # stdout and stderr


@dataclass(frozen=True)
class Shell:
    """Shell of the GPU machine: its folder, programs and variables, and no other ones."""

    tree: Path  # working directory
    python: Path
    site: Path  # packages that travelled as wheels
    temporary: Path  # of its processes, and nobody else's
    unshared: bool

    @property
    def network(self) -> str:
        return "a network without interfaces" if self.unshared else "a proxy that is not there"

    def variables(self) -> dict[str, str]:
        file = self.temporary / "no-folder"
        file.touch()
        return {
            "HOME": str(file / "home"),
            "LANG": "C.UTF-8",
            "OMP_NUM_THREADS": "1",
            "PATH": f"{self.python.parent}:/usr/local/bin:/usr/bin:/bin",
            "PYTHONPATH": str(self.site),
            "PYTHONUNBUFFERED": "1",
            "TMPDIR": str(self.temporary),
            **({} if self.unshared else OFFLINE),
        }

    def run(self, words: Sequence[str | Path], limit_s: float, say: Callable[[str], None]) -> Ran:
        """Run a command and ``say`` each line of it. What it has started ends with it."""
        reading, writing = os.pipe()
        process = subprocess.Popen(
            [*(UNSHARED if self.unshared else ()), self.python, *words],
            cwd=self.tree,
            env=self.variables(),
            stdin=subprocess.DEVNULL,
            stdout=writing,
            stderr=subprocess.STDOUT,
        )
        os.close(writing)
        late = threading.Event()

        def end() -> None:
            late.set()
            end_all([process], str(self.temporary))

        timer = threading.Timer(limit_s, end)
        timer.start()
        lines = list[str]()
        try:
            with os.fdopen(reading, encoding="utf-8", errors="replace") as output:
                for line in output:
                    lines.append(line)
                    say(line.rstrip())
            process.wait()
        finally:
            timer.cancel()
            end_all([process], str(self.temporary))
        return Ran(None if late.is_set() else process.returncode, "".join(lines))
