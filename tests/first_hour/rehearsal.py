"""What a person does in a rehearsal, and how long it takes: commands, clicks, pages and seconds."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from tests.cluster.darkroom import ROOT, clean_environment

COMMAND_S = 300.0

T = TypeVar("T")


class StepFailed(AssertionError):
    """A step that did not do what a person expects, with what it printed."""


def shell_of(data_dir: Path, root: Path) -> Mapping[str, str]:
    """Environment of a shell in which a Darkroom of ``root`` was installed into ``data_dir``."""
    environment = clean_environment()
    path = f"{root / '.venv' / 'bin'}:{environment['PATH']}"
    return {**environment, "DARKROOM_DATA_DIR": str(data_dir), "PATH": path}


@dataclass(frozen=True)
class Step:
    """Something that a person does."""

    person: str
    what: str
    seconds: float
    commands: int = 0  # typed into a shell
    clicks: int = 0  # on the page, and keys
    pages: int = 0  # of the docs


@dataclass
class Rehearsal:
    """Steps of all people so far."""

    shell: Mapping[str, str]  # the environment
    folder: Path  # in which commands run
    say: Callable[[str], None]
    steps: list[Step] = field(default_factory=list)

    @contextmanager
    def step(self, person: str, what: str, *, commands: int = 0, clicks: int = 0) -> Iterator[None]:
        """Measure a step that does not run in a shell."""
        began = time.monotonic()
        yield
        self._done(Step(person, what, time.monotonic() - began, commands, clicks))

    def type(self, person: str, what: str, command: str) -> str:
        """Run a line as it is typed into a shell; return what it prints. Raises ``StepFailed``."""
        began = time.monotonic()
        bash = shutil.which("bash") or "sh"
        ended = subprocess.run(
            [bash, "-c", command],
            env=dict(self.shell),
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=COMMAND_S,
            check=False,
        )
        output = ended.stdout + ended.stderr
        if ended.returncode:
            raise StepFailed(f"{person}: {command}\nended with {ended.returncode}:\n{output}")
        self._done(Step(person, what, time.monotonic() - began, commands=1))
        return output

    def read(self, person: str, *pages: str) -> None:
        """Count pages of the docs that a person has to read. Raises ``StepFailed`` for one that is
        not there."""
        for page in pages:
            self.expect((ROOT / page).is_file(), f"page {page}")
        self._done(Step(person, f"reads {', '.join(pages)}", 0.0, pages=len(pages)))

    def client(self, person: str, package: str, *modules: str) -> None:
        """Install the client that a person's program imports ``modules`` of, if it is not there, as
        in the environment of ``scripts/run``, which has no clients."""
        names = ", ".join(modules)
        looked = f"python -c 'import {names}' 2>/dev/null"
        if subprocess.run(["sh", "-c", looked], env=dict(self.shell), check=False).returncode == 0:
            return
        pinned = f"--constraint {ROOT / 'constraints.txt'}"
        self.type(
            person, f"installs {package}", f"python -m pip install --quiet {pinned} {package}"
        )

    def expect(self, value: T | None, what: str) -> T:
        """Return what was found. Raises ``StepFailed`` if nothing was."""
        if not value:
            raise StepFailed(f"There is no {what}.")
        return value

    def _done(self, step: Step) -> None:
        self.steps.append(step)
        self.say(f"  {step.person:14} {step.seconds:7.1f} s  {step.what}")

    def table(self) -> str:
        """Seconds, commands, clicks and pages of each person."""
        lines = [f"{'':14} {'seconds':>9} {'commands':>9} {'clicks':>7} {'pages':>6}"]
        for person in dict.fromkeys(step.person for step in self.steps):
            own = [step for step in self.steps if step.person == person]
            seconds = sum(step.seconds for step in own)
            commands = sum(step.commands for step in own)
            clicks = sum(step.clicks for step in own)
            pages = sum(step.pages for step in own)
            lines.append(f"{person:14} {seconds:9.1f} {commands:9} {clicks:7} {pages:6}")
        return "\n".join(lines)
