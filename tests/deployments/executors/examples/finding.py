"""What came out of one public example, and the environments in which examples are read."""

from __future__ import annotations

import asyncio
import re
import sysconfig
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from deployments.executors.environment import Environments, Requirements, layers

SERVED, DIFFERENT, DESCRIBED, REFUSED, UNREAD = (
    "served",
    "different",
    "described",
    "refused",
    "not read",
)
"""Results, from the best. *not read*: its packages are missing here, so nothing is known."""

RESULTS = (SERVED, DIFFERENT, DESCRIBED, REFUSED, UNREAD)

SMALL = frozenset(
    {"cog", "coglet", "fal-client", "httpx", "numpy", "pillow", "pydantic", "requests"}
)
"""Packages that are installed for an example. Others are borrowed from this environment."""

MOST_LETTERS = 300

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True, slots=True)
class Finding:
    """Result of one example."""

    example: str
    uses: tuple[str, ...]
    result: str
    why: str  # one sentence, or several


def package_names(requirements: Requirements) -> list[str]:
    """Names of packages, without versions. Options and addresses keep their text."""
    names: list[str] = []
    for requirement in [name for layer in layers(requirements) for name in layer]:
        named = _NAME.match(requirement)
        names.append(named.group().lower() if named and "://" not in requirement else requirement)
    return names


def is_small(requirements: Requirements) -> bool:
    """True for requirements that are installed here, so that the example can also run."""
    return set(package_names(requirements)) <= SMALL


class BorrowingEnvironments(Environments):
    """Environments that install small requirements only. For others, one with the base packages
    sees the packages of this process after its own: enough to import an example, not to run it."""

    def __init__(self, directory: Path, base: Requirements, *, always: bool = False) -> None:
        """``base``: what an environment has that borrows. ``always``: also those do whose
        requirements are small."""
        super().__init__(directory)
        self._base = base
        self._always = always
        self.borrowed = directory.with_name(f"{directory.name}-borrowing")
        self._borrowing = Environments(self.borrowed)
        self._lock = asyncio.Lock()

    async def python(
        self,
        requirements: Requirements | None,
        on_build: Callable[[], None] = lambda: None,
        *,
        for_fal: bool = False,
    ) -> Path:
        if requirements is None or (is_small(requirements) and not self._always):
            return await super().python(requirements, on_build, for_fal=for_fal)
        async with self._lock:
            python = await self._borrowing.python(self._base, on_build, for_fal=for_fal)
            (packages,) = python.parent.parent.glob("lib/python*/site-packages")
            listed = packages / "borrowed.pth"
            # Once: other examples are being imported with it.
            if not listed.exists():
                listed.write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
        return python


def shorten(text: str, private: Sequence[Path] = ()) -> str:
    """``text`` in one line for a table, without the paths of this machine."""
    here = (sysconfig.get_path("purelib"), sysconfig.get_path("stdlib"), tempfile.gettempdir())
    known = {*map(str, private), *here, str(Path.home()), str(Path.cwd())}
    for folder in sorted(known, key=len, reverse=True):  # one may lie in another
        text = text.replace(f"{folder}/", "").replace(folder, "")
    text = re.sub(r" \(slot [0-9a-f-]{36}\)", "", text)  # of Cog, another one each time
    text = " ".join(re.sub(r"[^\s(]*/site-packages/", "", text).split())
    return text if len(text) <= MOST_LETTERS else text[: MOST_LETTERS - 1] + "…"


def settings_of(notes: Sequence[str]) -> str:
    """What the notes of a description are about, in a few words."""
    named = [note.partition(" = ")[0] for note in notes if " is not used" in note]
    told = [note for note in notes if " is not used" not in note and "asks for Python" not in note]
    listed = ", ".join(f"`{name}`" for name in named)
    return " ".join([*([f"Set elsewhere: {listed}."] if named else []), *told])
