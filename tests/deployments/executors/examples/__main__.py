"""Tries public examples of fal and Cog, and writes the page of the docs.

python -m tests.deployments.executors.examples [--out FILE] [--fal NAME=FOLDER] [--cog NAME=FOLDER]
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from collections.abc import Awaitable, Iterable, Sequence
from pathlib import Path

from deployments.executors.cog.project import PACKAGES
from tests.deployments.executors.examples import cog_projects, fal_apps
from tests.deployments.executors.examples.finding import BorrowingEnvironments, Finding
from tests.deployments.executors.examples.page import page

AT_ONCE = 6


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="executor_examples", description=__doc__)
    for kind, of in (("fal", "apps written for fal"), ("cog", "Cog projects or .txtar tests")):
        parser.add_argument(
            f"--{kind}", action="append", default=[], metavar="NAME=FOLDER", help=f"{of}"
        )
    parser.add_argument("--only", help="only examples whose name contains this")
    parser.add_argument("--kept", type=Path, help="folder for environments, to use them again")
    parser.add_argument("--out", type=Path, help="where to write the page, in Markdown")
    options = parser.parse_args(words)
    with tempfile.TemporaryDirectory(prefix="darkroom-examples-") as scratch:
        kept = ((options.kept or Path(scratch)) / "environments").resolve()
        written = asyncio.run(_tried(options.fal, options.cog, options.only or "", kept))
    if options.out:
        options.out.write_text(written, encoding="utf-8")
    return 0


async def _tried(fal: Sequence[str], cog: Sequence[str], only: str, kept: Path) -> str:
    sections: dict[str, Sequence[Finding]] = {}
    absent: dict[str, int] = {}
    for source in fal:
        name, root = _named(source)
        environments = BorrowingEnvironments(kept, ())
        sections[name] = await _all(
            fal_apps.try_app(root, path, app, environments, kept)
            for path, app in fal_apps.examples(root)
            if only in f"{path}:{app.name}"
        )
    for source in cog:
        name, root = _named(source)
        environments = BorrowingEnvironments(kept, [PACKAGES])
        examples = [example for example in cog_projects.examples(root) if only in example.name]
        sections[name] = await _all(
            cog_projects.try_project(example, environments, kept) for example in examples
        )
        absent[name] = len(examples) - len(sections[name])
    return page(sections, absent)


def _named(argument: str) -> tuple[str, Path]:
    """Name for the page, and the folder. Without a name: that of the folder."""
    name, equals, folder = argument.rpartition("=")
    root = Path(folder).resolve()
    return (name if equals else root.name), root


async def _all(trials: Iterable[Awaitable[Finding | None]]) -> Sequence[Finding]:
    turns = asyncio.Semaphore(AT_ONCE)

    async def one(trial: Awaitable[Finding | None]) -> Finding | None:
        async with turns:
            finding = await trial
        if finding is not None:
            sys.stdout.write(f"{finding.example}: {finding.result}: {finding.why}\n")
            sys.stdout.flush()
        return finding

    every = await asyncio.gather(*(one(trial) for trial in trials))
    return [finding for finding in every if finding is not None]


if __name__ == "__main__":
    sys.exit(main())
