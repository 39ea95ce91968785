"""The first hour of six people, rehearsed from the README's first command on: each does what the
docs say, with the real programs, and the seconds, commands, clicks and pages of each are printed.
Run by ``scripts/first_hour``."""

from __future__ import annotations

import argparse
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from tests.cluster.darkroom import ROOT, Darkroom, eventually
from tests.cluster.processes import with_default_signals
from tests.first_hour.people import PEOPLE
from tests.first_hour.rehearsal import Rehearsal, StepFailed, shell_of

START_S = 1800.0  # with the packages
SAMPLE = re.compile(r"took [\d.]+ s: (\S+sample\.png)")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--fresh",
        action="store_true",
        help="In a new clone with a new environment, which takes minutes.",
    )
    parser.add_argument("--only", nargs="+", choices=PEOPLE, default=list(PEOPLE))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="first-hour-") as folder:
        place = Path(folder)
        root = _clone(place) if arguments.fresh else ROOT
        try:
            rehearsal = rehearse(place, root, arguments.only)
        except StepFailed as error:
            print(error, file=sys.stderr)  # noqa: T201
            return 1
    print(f"\n{rehearsal.table()}")  # noqa: T201
    return 0


def rehearse(place: Path, root: Path, people: list[str]) -> Rehearsal:
    """Start a Darkroom by ``scripts/run`` of ``root`` and let each of ``people`` use it."""
    darkroom = Darkroom(place / "data")
    work = place / "work"
    work.mkdir()
    rehearsal = Rehearsal(shell_of(darkroom.data_dir, root), work, partial(print, flush=True))
    with _running(darkroom, root, rehearsal):
        for name in people:
            PEOPLE[name](rehearsal, darkroom.url, darkroom.key)
    return rehearsal


@contextmanager
def _running(darkroom: Darkroom, root: Path, rehearsal: Rehearsal) -> Iterator[None]:
    """The README's first command, until the first image is there."""
    command = ("sh", str(root / "scripts" / "run"), "--demo", "--port", str(darkroom.port))
    try:
        with rehearsal.step("everybody", "starts it, up to the first image", commands=1):
            began = time.monotonic()
            started = _start(darkroom, command, rehearsal.shell)
            eventually(lambda: _sample(darkroom, started), "there is an image", START_S)
            rehearsal.say(f"  (the start says so itself after {time.monotonic() - began:.1f} s)")
        yield
        with rehearsal.step("everybody", "ends it by Ctrl-C", clicks=1):
            started.send_signal(signal.SIGINT)
            started.wait(timeout=120)
    finally:
        darkroom.clear_away()


def _start(
    darkroom: Darkroom, command: tuple[str, ...], shell: Mapping[str, str]
) -> subprocess.Popen[bytes]:
    with darkroom.output.open("wb") as log:
        started = subprocess.Popen(
            with_default_signals(*command),
            env=dict(shell),
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=darkroom.data_dir.parent,
            start_new_session=True,
        )
    darkroom.adopt(started)
    return started


def _sample(darkroom: Darkroom, started: subprocess.Popen[bytes]) -> bool:
    text = darkroom.output.read_text(errors="replace")
    if started.poll() is not None:
        raise StepFailed(f"The first command ended:\n{text}")
    return SAMPLE.search(text) is not None


def _clone(place: Path) -> Path:
    root = place / "darkroom"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(root)], check=True)
    return root


if __name__ == "__main__":
    sys.exit(main())
