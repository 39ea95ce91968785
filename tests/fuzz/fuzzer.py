"""The fuzzer: gives damaged inputs to readers in a child process, and keeps those that are not
refused by name, take too much memory, end the process, or take too long."""

from __future__ import annotations

import json
import selectors
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
INPUT_LIMIT_S = 60.0
"""Time for one input, far above what any takes: a reader that needs it hangs."""
START_LIMIT_S = 600.0  # the child imports torch, and the machine may be busy


@dataclass(frozen=True, slots=True)
class Finding:
    """An input that a reader did not take as it should."""

    target: str
    seed: str  # of the input
    what: str
    shown: str = ""

    @property
    def file_name(self) -> str:
        return f"{self.target}--{self.seed.replace('/', '-')}.bin"


@dataclass(slots=True)
class Fuzzer:
    """``folder``: for the inputs that were found."""

    folder: Path
    findings: list[Finding] = field(default_factory=list[Finding])
    counted: Counter[tuple[str, str]] = field(default_factory=Counter[tuple[str, str]])
    _child: subprocess.Popen[str] | None = None
    _scratch: Path = field(
        default_factory=lambda: Path(tempfile.mkdtemp(prefix="fuzz-"), "input"), init=False
    )

    def run(self, target: str, seed: str) -> None:
        """Read one input, and keep it if it is a finding."""
        self._try(target, seed, {"target": target, "seed": seed, "save": str(self._scratch)})

    def repeat(self, file: Path) -> None:
        """Read the input of a finding again. Its name begins with its target."""
        target = file.name.partition("--")[0]
        self._try(target, file.stem, {"target": target, "file": str(file)})

    def close(self) -> None:
        """End the child, and remove the scratch folder."""
        self._end()
        shutil.rmtree(self._scratch.parent, ignore_errors=True)

    def _end(self) -> None:
        child, self._child = self._child, None
        if child is not None:
            child.kill()
            child.communicate()

    def _try(self, target: str, seed: str, order: dict[str, Any]) -> None:
        reply = self._reply(order)
        self.counted[target, f"{reply['result']} {reply['what']}".strip()] += 1
        if reply["result"] == "crash":
            finding = Finding(target, seed, reply["what"], reply.get("shown", ""))
            self.findings.append(finding)
            if "seed" in order:
                self._save(finding)

    def _reply(self, order: dict[str, Any]) -> dict[str, str]:
        limit_s = INPUT_LIMIT_S if self._child is not None else START_LIMIT_S
        child = self._started()
        assert child.stdin is not None
        assert child.stdout is not None
        try:
            child.stdin.write(json.dumps(order) + "\n")
            child.stdin.flush()
            with selectors.DefaultSelector() as selector:
                selector.register(child.stdout, selectors.EVENT_READ)
                answered = selector.select(limit_s)
            line = child.stdout.readline() if answered else ""
        except BrokenPipeError:
            answered, line = [()], ""
        if line:
            return dict(json.loads(line))
        if not answered:
            self._end()
            return {"result": "crash", "what": f"no answer within {limit_s:.0f} s"}
        status = child.wait()
        self._end()
        return {"result": "crash", "what": f"the process ended with {status}"}

    def _started(self) -> subprocess.Popen[str]:
        if self._child is None:
            self._child = subprocess.Popen(
                [sys.executable, "-m", "tests.fuzz.worker"],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
        return self._child

    def _save(self, finding: Finding) -> None:
        """Keep the input, which the child wrote before it read it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / finding.file_name).write_bytes(self._scratch.read_bytes())
