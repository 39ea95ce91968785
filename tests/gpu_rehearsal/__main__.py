"""Rehearse the runs on the GPU machine. Run by ``scripts/gpu_rehearsal``."""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from tests.gpu_rehearsal.environment import (
    Environment,
    Interpreter,
    imports_torch,
    install_wheels,
    machines_pythons,
    other_versions,
    our_interpreter,
    replacements,
)
from tests.gpu_rehearsal.findings import (
    cut_sections,
    failed_sections,
    left_behind,
    problems,
    sections_of,
)
from tests.gpu_rehearsal.running import Shell, can_unshare
from tests.gpu_rehearsal.travel import (
    CARRIED,
    DEMO,
    ROOT,
    TRAVELS_BYTES,
    archive_of_head,
    download_wheels,
    size_problems,
)

RUN_S = 720.0
"""Limit of a command. On the GPU machine it has ten minutes, and ends itself before."""

COLLECT = ("-m", "pytest", "-c", "/dev/null", "--noconftest", "-p", "no:cacheprovider", "tests/gpu")
COLLECT_S = 180.0

COMPILED = "benchmarks", "deployments", "serve_app/domain", "tests/gpu", "tests/engine"

say = partial(print, flush=True)


@dataclass
class Rehearsal:
    """Steps in ``folder``, and what is wrong."""

    folder: Path
    problems: list[str] = field(default_factory=list)

    @property
    def tree(self) -> Path:
        return self.folder / "tree"

    @property
    def site(self) -> Path:
        return self.folder / "site"

    @property
    def temporary(self) -> Path:
        return self.folder / "tmp"

    @property
    def out(self) -> Path:
        return self.folder / "out"

    def run(self) -> None:
        wheels = self._travel()
        pythons = machines_pythons(os.environ["PATH"])  # noqa: TID251 where programs are
        interpreter = next(filter(imports_torch, pythons), None) or our_interpreter()
        if pythons and interpreter not in pythons:
            self._compile(pythons[0], wheels)
        shell = self._shell(interpreter, wheels)
        self._collect(shell)
        for options in ([], ["--second"]):
            self._benchmark(shell, options)

    def _travel(self) -> list[Path]:
        """Unpack the tree and download the wheels, and say how large they are."""
        archive, wheels = archive_of_head(), self.folder / "wheels"
        archive.unpack(self.tree)
        constraints = (self.tree / "constraints.txt").read_text(encoding="utf-8")
        downloads = download_wheels(our_interpreter().python, constraints, wheels)
        tree, carried = len(archive.tar), sum(wheel.stat().st_size for wheel in downloads)
        say(f"{tree:>12,} bytes of the archive of HEAD")
        say(f"{archive.bytes_under(DEMO):>12,} bytes of them are the demo models ({DEMO})")
        say(f"{carried:>12,} bytes of wheels: {', '.join(wheel.name for wheel in downloads)}")
        say(f"{TRAVELS_BYTES - tree - carried:>12,} bytes are left of {TRAVELS_BYTES:,}")
        self.problems += size_problems(tree, carried, archive.largest_folders())
        return downloads

    def _compile(self, interpreter: Interpreter, wheels: Sequence[Path]) -> None:
        """Try what the GPU machine's Python can do without torch."""
        site = self.folder / "site-without-torch"
        install_wheels(interpreter.python, wheels, site)
        command = [interpreter.python, "-X", f"pycache_prefix={self.folder / 'compiled'}"]
        say(f"{interpreter.python} has no torch: it compiles {', '.join(COMPILED)}")
        for words in (["-m", "compileall", "-q", *COMPILED], ["-c", "import greenlet"]):
            done = subprocess.run(
                [*command, *words],
                cwd=self.tree,
                env={"PYTHONPATH": str(site)},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                check=False,
            )
            if done.returncode:
                self.problems.append(f"{interpreter.python} {' '.join(words)}:\n{done.stdout}")

    def _shell(self, interpreter: Interpreter, wheels: Sequence[Path]) -> Shell:
        pure = [wheel for wheel in wheels if wheel.name.endswith("-none-any.whl")]
        usable = wheels if interpreter.is_the_machines else pure
        installed = {wheel.name.partition("-")[0] for wheel in usable}
        environment = Environment(self.folder / "environment", interpreter)
        environment.build(set(CARRIED) - installed, replacements(interpreter.packages))
        install_wheels(environment.python, usable, self.site)
        self.temporary.mkdir()
        self.out.mkdir()
        shell = Shell(self.tree, environment.python, self.site, self.temporary, can_unshare())
        say(f"Python {'.'.join(map(str, interpreter.version))}, and {shell.network}")
        for name, versions in sorted(other_versions(environment.packages).items()):
            say(f"  {name} is {versions[0]} here and {versions[1]} there")
        return shell

    def _collect(self, shell: Shell) -> None:
        ran = shell.run([*COLLECT, "--collect-only", "-q"], COLLECT_S, lambda _: None)
        if ran.status != 0:
            self.problems.append(f"tests/gpu is not collected:\n{ran.printed[-4000:]}")
        else:
            say("tests/gpu is collected")

    def _benchmark(self, shell: Shell, options: Sequence[str]) -> None:
        words = ["-m", "benchmarks.gpu", "--out", str(self.out), *options]
        words += ["--device", "cpu", "--tiny"]
        name, began = " ".join(["benchmarks.gpu", *options]), time.monotonic()
        say(f"\n{name}:")
        ran = shell.run(words, RUN_S, say)
        say(f"{name}: {time.monotonic() - began:.0f} s, {len(ran.printed):,} characters")
        self.problems += [f"{name}: {problem}" for problem in problems(ran)]
        try:
            sections = sections_of(self.out)
        except ValueError as error:
            self.problems.append(f"{name}: the results cannot be read: {error}")
            return
        if cut := cut_sections(sections):
            say(f"Cut at their limit of time: {', '.join(cut)}")
        # The second run adds to the results of the first.
        failures = [*failed_sections(sections), *left_behind(self.out)]
        self.problems += [failure for failure in failures if failure not in self.problems]


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/gpu_rehearsal", description=__doc__)
    parser.add_argument("--keep", action="store_true", help="keep the folder with all of it")
    arguments = parser.parse_args()
    changed = subprocess.run(
        ["git", "-C", ROOT, "status", "--porcelain"], check=True, stdout=subprocess.PIPE
    )
    if changed.stdout:
        say("There are changes that are not committed. HEAD is rehearsed without them.")
    folder = Path(tempfile.mkdtemp(prefix="gpu-rehearsal-"))
    try:
        rehearsal = Rehearsal(folder)
        rehearsal.run()
    finally:
        if arguments.keep:
            say(f"All of it is in {folder}.")
        else:
            shutil.rmtree(folder)
    for problem in rehearsal.problems:
        say(f"- {problem}")
    say(f"{len(rehearsal.problems)} problems found")
    return int(bool(rehearsal.problems))


if __name__ == "__main__":
    sys.exit(main())
